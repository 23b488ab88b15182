"""Measures full-size models of two held-out families: their vision encoder, and 4-bit trainings of both backends.

    python docs/benchmarks/training/families.py OUT --data DATASET --minutes 8

--data is a dataset of the prepare step with pages of 640 x 640 pixels (README.md: page640). The models are written into
a temporary folder (9.5 GB). OUT/families.json gets every figure; a case that no time is left for is named in it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from full_size_families import save_full_size
from measure import line, measure

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import default_device, default_dtype, load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.segment_attention import attend_by_segment_length
from components.shared.reading.vision_microbatches import vision_encoder
from components.train.vision.recorded_vision import recorded

FAMILIES = ("qwen2_5_vl", "paddleocr_vl")
_WARM_UP = 3  # calls: kernels are chosen, the encoder is recorded
_LEAST_SECONDS = 45  # a training that starts later could not load its model


def encoder_figures(model: Path, data: Path, count: int, repeats: int) -> dict[str, Any]:
    """Return milliseconds of the frozen vision encoder for ``count`` pages: as transformers runs it, and as we do."""
    device = default_device()
    loaded: Any = load_model(str(model), dtype=default_dtype(device), device=device).eval().requires_grad_(False)
    processor = load_processor(str(model))
    dataset = ShardDataset(data, "train")
    pages = [dataset[index] for index in range(count)]
    inputs = generation_inputs(
        processor, family_of(loaded.config.model_type), [page.image for page in pages], [None] * count
    )
    pixels = inputs["pixel_values"].to(device, loaded.dtype)
    pixels = pixels.unsqueeze(0) if loaded.config.model_type == "paddleocr_vl" else pixels
    grid, encoder = inputs["image_grid_thw"].to(device), vision_encoder(loaded)
    plain = _timed(encoder.forward, pixels, grid, repeats)
    layers = attend_by_segment_length(loaded)
    by_length = _timed(encoder.forward, pixels, grid, repeats)
    replayed = recorded(encoder.forward)
    by_replay = _timed(replayed, pixels, grid, repeats)
    with torch.no_grad():
        ours, theirs = (run(pixels, grid_thw=grid).last_hidden_state.float() for run in (replayed, encoder.forward))
    return {
        "patches": int(grid.prod(dim=1).sum()),
        "attention_layers": layers,
        "transformers_ms": plain,
        "by_segment_length_ms": by_length,
        "recorded_ms": by_replay,
        "largest_difference_of_recorded": float((ours - theirs).abs().max() / theirs.abs().max()),
    }


def _timed(run: Any, pixels: torch.Tensor, grid: torch.Tensor, repeats: int) -> float:
    """Return the median milliseconds of a call, until the device is done."""
    seconds = []
    with torch.no_grad():
        for _ in range(repeats + _WARM_UP):
            _wait()
            started = time.perf_counter()
            run(pixels, grid_thw=grid)
            _wait()
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rule_milliseconds(pages: int = 32, vocabulary: int = 129280, repeats: int = 100) -> float:
    """Return milliseconds that the rule against repeated sequences (20 tokens in 90) adds to a decoding step."""
    device = default_device()
    rule, scores = NoRepeatNgrams(20, 90), torch.randn(pages, vocabulary, device=device)
    answers = torch.randint(vocabulary, (pages, 2048), device=device)
    written = torch.tensor([1024], device=device)
    rule.scores(scores, answers, written)
    _wait()
    started = time.perf_counter()
    for _ in range(repeats):
        rule.scores(scores, answers, written)
    _wait()
    return 1000 * (time.perf_counter() - started) / repeats


def trainings(name: str, model: Path, options: argparse.Namespace, deadline: float) -> list[dict[str, Any]]:
    """Return the figures of one training for each backend."""
    found = []
    for backend in options.backends:
        left = deadline - time.monotonic()
        if left < _LEAST_SECONDS:
            found.append({"name": f"{name}-4bit-{backend}", "failed": "no time was left"})
            continue
        case = (
            f"name={name}-4bit-{backend},backend={backend},load_in_4bit={str(not options.small).lower()}"
            f",gradient_checkpointing=true,max_length=4096,target_modules=null,dataloader_num_workers={options.workers}"
        )
        settings = argparse.Namespace(
            **vars(options) | {"model": str(model), "data": str(options.data), "limit": int(left)}
        )
        try:
            found.append(measure(case, settings))
        except Exception as error:  # the other cases go on
            found.append({"name": f"{name}-4bit-{backend}", "failed": f"{type(error).__name__}: {error}"[-600:]})
        print(line(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--backends", nargs="+", default=["standard", "unsloth"])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all together")
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--warmup", type=int, default=12)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="two layers and no 4 bits, to try the command on a CPU")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"command": sys.argv[1:], "warmup_steps": options.warmup, "families": {}}
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
    report["no_repeat_rule_ms"] = rule_milliseconds()
    with tempfile.TemporaryDirectory(prefix="families-") as scratch:
        for name in options.families:
            save_full_size(name, Path(scratch) / name, layers=2 if options.small else None)
            entry = report["families"][name] = {
                "vision_encoder": encoder_figures(
                    Path(scratch) / name, options.data, *((1, 1) if options.small else (4, 8))
                )
            }
            print(name, json.dumps(entry["vision_encoder"]), flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            entry["trainings"] = trainings(name, Path(scratch) / name, options, deadline)
            (options.out / "families.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
