"""The service beside the evaluation on one GPU, with the same batch; one call of about 5 minutes:

    python docs/benchmarks/serving/gpu.py --output $OUT/gpu.json
    python docs/benchmarks/serving/gpu.py --output $OUT/gpu.json --models full --only_saturated     # 3 minutes

Reads with a full-size DeepSeek-OCR-2 with random weights, which takes 600 tokens for every page, and with the bundled
base. The evaluation's rate is that of its own code in this process, after a first batch that records the steps. The
service runs in a process of its own; this one sends pages over loopback. Below the table stands where the engine's
thread spends its time while it is saturated. A part that would begin after --minutes is left out.
A machine with PyTorch, transformers, requests and psutil also needs these wheels, those of constraints.txt:
annotated-types fastapi isal loky opentelemetry-api opentelemetry-sdk opentelemetry-semantic-conventions pydantic
pydantic-core pydantic-settings pypdfium2 python-dotenv python-multipart starlette typing-inspection uvicorn.
To try it on a CPU: --models tiny --pages 8 --batch 4 --tokens 20 --seconds 5
"""

import argparse
import io
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from load import PERCENTS, open_loop, reader, saturated
from PIL import Image
from service_process import TEXT, Service, as_file, drawn, running_service

from components.benchmark.contenders.full_size_model import save_full_size_deepseek_ocr2
from components.evaluate.readers.generation import transcribe
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import (
    default_device,
    default_dtype,
    load_model,
    load_processor,
    release_memory,
)
from components.shared.reading.transcriber import Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

_PHASES = ("queue", "prepare", "prefill", "decode")
_SIZES = {"full": (640, 640), "tiny": (280, 280), "tiny-base": (700, 160)}


@dataclass(frozen=True)
class _Page:
    """A page as the evaluation takes it: its picture is decoded when it is prepared."""

    key: str
    file: bytes
    instruction: None = None

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return Image.open(io.BytesIO(self.file)).convert("RGB")


class _Pages(list):
    """Pages in the order in which they shall be read."""

    def by_expected_length(self) -> list[int]:
        """Return their positions."""
        return list(range(len(self)))


def main() -> None:
    """Run all parts of each model, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=list(_SIZES), default=["full", "tiny-base"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=600, help="longest answer")
    parser.add_argument("--pages", type=int, default=192, help="pages that the evaluation reads")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each part of the service")
    parser.add_argument("--only_saturated", action="store_true", help="leave the parts with a lower load out")
    parser.add_argument("--minutes", type=float, default=5.0, help="no part begins after them")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    content: dict[str, Any] = {"device": name, "torch": torch.__version__, "cpus": os.cpu_count(), "models": {}}
    content |= {"dtype": str(default_dtype(default_device())), "date": time.strftime("%Y-%m-%d")}
    content["settings"] = {key: str(value) for key, value in vars(options).items()}
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            figures = content["models"][model] = {}
            place = _saved(model, Path(folder) / model)
            pages = [as_file(drawn(f"{TEXT}\n{number}", *_SIZES[model])) for number in range(16)]
            figures["evaluation"] = _evaluation(place, pages, options)
            _write(options.output, content)
            if time.monotonic() > ends:
                break
            flags = ("--model", place, "--max_batch_size", str(options.batch), "--max_new_tokens", str(options.tokens))
            with running_service(*flags, "--max_queued_pages", "4096") as service:
                _service(service, pages, figures, options, ends)
                figures["warnings"] = service.warnings()
            _write(options.output, content)
    print(table(content))


def _saved(model: str, folder: Path) -> str:
    if model == "tiny-base":
        return model
    (save_full_size_deepseek_ocr2 if model == "full" else save_tiny_deepseek_ocr2)(folder)
    return str(folder)


def _evaluation(model_name: str, files: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Return the rate of the evaluate step's code: its batches, recorded steps, and threads that prepare pages."""
    device = default_device()
    model = load_model(model_name, dtype=default_dtype(device), device=device).eval()
    family = family_of(model.config.model_type)
    transcriber = Transcriber(model, load_processor(model_name), family, options.tokens)
    pages = _Pages(_Page(str(number), files[number % len(files)]) for number in range(options.pages))
    threads = 4 if device.type == "cuda" else 0  # the step's default
    transcribe(_Pages(pages[: options.batch]), transcriber, options.batch, "first batch", threads)
    found = transcribe(pages, transcriber, options.batch, "evaluation", threads)
    alone = Transcriber(model, load_processor(model_name), family, 1, graphed=False)
    prefills = [alone.read_prepared(alone.prepare(pages[: options.batch])) for _ in range(3)][1:]
    del model, transcriber, alone
    release_memory()
    return {
        "pages": len(pages),
        "seconds": round(found.seconds, 2),
        "pages_per_second": round(len(pages) / found.seconds, 3),
        "failed": sum(prediction.error is not None for prediction in found.predictions),
        "truncated": sum(prediction.truncated for prediction in found.predictions),
        "memory_halvings": found.memory_halvings,
        "seconds_of_a_batch": round(found.seconds * options.batch / len(pages), 3),
        "seconds_to_prepare_and_prefill_it": round(options.batch * min(one[0].seconds for one in prefills), 3),
    }


def _service(
    service: Service, pages: list[bytes], figures: dict[str, Any], options: argparse.Namespace, ends: float
) -> None:
    send = reader(service.url, pages)
    for number in range(2):  # the first pages allocate, and the second ones record
        send(number, time.perf_counter())
    before = service.metrics()
    figures["saturated"] = full = saturated(send, 3 * options.batch, options.seconds, options.batch)
    figures["phases"] = _phases(before, service.metrics())
    full["of_the_evaluation"] = round(full["pages_per_second"] / figures["evaluation"]["pages_per_second"], 3)
    for load in () if options.only_saturated else (0.9, 0.5):
        if time.monotonic() < ends and full["pages_per_second"]:
            rate = load * full["pages_per_second"]
            figures[f"at {round(100 * load)} % of it"] = open_loop(send, rate, options.seconds)


def _phases(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """Return what happened between two looks: means of pages and steps, and how the engine's thread spent its time."""

    def grown(name: str) -> float:
        return after[f"deepsynth_serve_{name}"] - before.get(f"deepsynth_serve_{name}", 0.0)

    def mean(name: str, labels: str = "") -> float:
        return round(grown(f"{name}_sum{labels}") / max(1.0, grown(f"{name}_count{labels}")), 4)

    pages = {phase: mean("page_phase_seconds", f'{{phase="{phase}"}}') for phase in _PHASES}
    names = [name for name in after if name.startswith("deepsynth_serve_engine_seconds_total")]
    parts = {name.split('"')[1]: round(after[name] - before.get(name, 0.0), 3) for name in names}
    launches = grown("batch_rows_count")
    return {
        "seconds_of_a_page": pages,
        "rows_of_a_step": mean("batch_rows"),
        "engine_seconds": parts,
        "launches": launches,
        "ms_of_a_launch": round(1000 * (parts.get("launch", 0) + parts.get("wait", 0)) / max(1.0, launches), 3),
    }


def table(content: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [f"{content['device']}, {content['dtype']}, torch {content['torch']}, {content['cpus']} CPUs", ""]
    lines += ["| model | | pages/s | of the evaluation | failed | p50 | p95 | p99 |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for model, figures in content["models"].items():
        for name, part in figures.items():
            if name in ("phases", "warnings"):
                continue
            rate = part.get("pages_per_second", part.get("per_second_offered"))
            seconds = [part.get(f"p{percent}_seconds") for percent in PERCENTS]
            times = " | ".join("" if each is None else f"{each:.2f} s" for each in seconds)
            share = part.get("of_the_evaluation", "")
            lines.append(f"| {model} | {name} | {rate:.2f} | {share} | {part['failed']} | {times} |")
    for model, figures in content["models"].items():
        tokens = figures.get("saturated", {}).get("tokens_per_page")
        lines += ["", f"{model}: {tokens} tokens a page; the evaluation: {figures['evaluation']}"]
        lines += [f"{name}: {value}" for name, value in figures.get("phases", {}).items()]
        lines += [f"warned: {line}" for line in figures.get("warnings", [])[:5]]
    return "\n".join([*lines, ""])


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(content), encoding="utf-8")


if __name__ == "__main__":
    main()
