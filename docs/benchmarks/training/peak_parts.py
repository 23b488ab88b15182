"""Says what is alive at the peak of a full-size 4-bit training at batch 4, and each step's peak; needs a CUDA device.

    PYTHONPATH=. python docs/benchmarks/training/peak_parts.py OUT --data DATASET [--family paddleocr_vl]

The weights are random. PyTorch records each allocation with its Python frames, from the first step on, so steps are
slower than usual. OUT/peak-FAMILY-BACKEND.json has the groups of live tensors at the peak, and beside them what the
memory estimate says of rows as long as those of the step that had it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

_FRAMES = 14
_SHOWN = 4 * 2**20  # bytes; smaller groups are in the JSON only


def traced_steps(config: Any) -> tuple[list[dict[str, int]], int, list[dict[str, Any]]]:
    """Train and return each step's peak and padded tokens, the bytes before the first step, and all allocations."""
    import torch

    from components.train.batches.batch_plan import configured_plan
    from components.train.estimate import fitting_batch
    from components.train.loop import measurements
    from components.train.step import run

    steps: list[dict[str, int]] = []
    before: list[int] = []
    start, end = measurements.start_memory_peak, measurements.MeasuringCallback.on_step_end

    def start_recording() -> None:
        start()
        before.append(torch.cuda.memory_allocated())
        torch.cuda.memory._record_memory_history(max_entries=4_000_000, stacks="python")

    def end_of_step(self: Any, *places: Any, **options: Any) -> None:
        end(self, *places, **options)
        padded = self._measurements.padded_tokens_per_step[-1]
        steps.append({"padded_tokens": padded, "peak_so_far": torch.cuda.max_memory_allocated()})

    fitting_batch.plan_within_memory = lambda config, *_: configured_plan(config)  # the estimate is made below
    measurements.start_memory_peak = start_recording
    measurements.MeasuringCallback.on_step_end = end_of_step  # type: ignore[method-assign]
    run(config)
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(enabled=None)
    return steps, before[0], events


def live_at_the_peak(events: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    """Return the bytes above those before the first event at their peak, and the tensors made since, in groups."""
    live: dict[int, dict[str, Any]] = {}
    total, best, at = 0, 0, 0
    for number, event in enumerate(events):
        total += {"alloc": 1, "free_completed": -1}.get(event["action"], 0) * event["size"]
        if total > best:
            best, at = total, number
    for event in events[: at + 1]:
        if event["action"] == "alloc":
            live[event["addr"]] = event
        elif event["action"] == "free_completed":
            live.pop(event["addr"], None)
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in live.values():
        groups[event["size"], tuple(_frames(event))].append(event)
    found = [
        {"bytes": size * len(events), "count": len(events), "size": size, "frames": list(frames)}
        for (size, frames), events in groups.items()
    ]
    return best, sorted(found, key=lambda group: -group["bytes"])


def _frames(event: dict[str, Any]) -> list[str]:
    named = [
        f"{frame['filename'].split('site-packages/')[-1][-70:]}:{frame['line']} {frame['name']}"
        for frame in event.get("frames", [])
        if "torch/nn/modules/module.py" not in frame["filename"]
    ]
    return named[:_FRAMES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="pages of 640 x 640 pixels")
    parser.add_argument("--family", default="paddleocr_vl", choices=["paddleocr_vl", "qwen2_5_vl"])
    parser.add_argument("--backend", default="unsloth", choices=["unsloth", "standard"])
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    from components.train.backends.choice import choose_backend
    from components.train.config import TrainConfig

    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            **{"dataset_dir": str(options.data), "base_model": f"{scratch}/base", "output_dir": f"{scratch}/out"},
            **{"backend": options.backend, "load_in_4bit": True, "gradient_checkpointing": True, "max_length": 4096},
            **{"per_device_train_batch_size": 4, "max_steps": options.steps, "dataloader_num_workers": 4, "r": 16},
        }
        config = TrainConfig.model_validate(settings)
        _save_base(options.family, Path(scratch) / "base")
        choose_backend(config)  # before any other import: Unsloth patches transformers
        steps, before, events = traced_steps(config)
        best, groups = live_at_the_peak(events)
        longest = max(step["padded_tokens"] for step in steps) // 4
        report = {
            "command": sys.argv[1:],
            "settings": settings,
            "before_the_first_step": before,
            "peak": steps[-1]["peak_so_far"],
            "above_at_the_peak": best,
            "steps": steps,
            "live": groups,
        }
        file = options.out / f"peak-{options.family}-{options.backend}.json"
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        _print(report)
        found = report["estimate"] = _estimate(config, longest, options.backend)
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print("estimate:", found["tokens"], found["peak_bytes"], found["parts"])


def _save_base(family: str, folder: Path) -> None:
    """Write the model in a process of its own, so that Unsloth patches transformers first, as in a training."""
    program = "import sys, pathlib, full_size_families as f; f.save_full_size(sys.argv[1], pathlib.Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", program, family, str(folder)], check=True, env=_with_this_folder())


def _with_this_folder() -> dict[str, str]:
    here = str(Path(__file__).parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def _estimate(config: Any, tokens: int, backend: str) -> dict[str, Any]:
    """Return the estimate of the product, made in a process that Unsloth has not patched."""
    from components.train.estimate.memory_estimate import Pages
    from components.train.estimate.preflight import answered_elsewhere

    pages = asdict(Pages(640, 640, tokens))
    request = {"config": config.model_dump(mode="json"), "pages": pages, "backend": backend}
    return {"tokens": tokens, **answered_elsewhere("components.train.estimate.memory_estimate", request)}


def _print(report: dict[str, Any]) -> None:
    for group in report["live"]:
        if group["bytes"] >= _SHOWN:
            print(f"{group['count']} x {group['size'] / 2**20:.1f} MiB", *group["frames"][:6], sep=" | ")
    print("steps:", report["steps"])
    print(f"before {report['before_the_first_step']}, peak {report['peak']}, above {report['above_at_the_peak']}")


if __name__ == "__main__":
    main()
