"""Measures the evaluation's pages per second, compared with a loop that reads one page after the other.

    python docs/benchmarks/evaluation/evaluation_speed.py OUT.json --model FOLDER --data DATASET

All cases use one model in one process and the code of the evaluate step (``evaluate/generation.py``,
``shared/transcriber.py``). OUT.json and OUT.md, which has the same values as a table, are written after each case.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.evaluate.readers.generation import transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.report.report_json import device_name
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import default_device, default_dtype, load_model, load_processor
from components.shared.reading.transcriber import Transcriber
from components.shared.versions import software_versions


@dataclass(frozen=True)
class Case:
    """A way of reading: pages per batch, and whether decoding steps are recorded, which needs a CUDA device."""

    name: str
    pages: int
    batch_size: int
    graphed: bool


def cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases: first the way the evaluate step reads, then the loop that it is compared with."""
    batched, alone = f"batches of {options.batch_size}", Case("one by one", options.alone, 1, False)
    if not torch.cuda.is_available():
        return [Case(batched, options.pages, options.batch_size, False), alone]
    return [
        Case(f"{batched}, recorded steps", options.pages, options.batch_size, True),
        alone,
        Case(f"{alone.name}, recorded steps", options.alone, 1, True),
        Case(batched, 4 * options.batch_size, options.batch_size, False),
    ]


def measured(case: Case, model: Any, processor: Any, dataset: ShardDataset, options: argparse.Namespace) -> dict:
    """Read the case's pages once and return its figures; seconds are those of the report's ``pages_per_second``."""
    pages = EvaluationPages(dataset, case.pages, options.seed)
    reader = Transcriber(model, processor, family_of(model.config.model_type), options.max_new_tokens, case.graphed)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started, started_cpu = time.perf_counter(), time.process_time()
    found = transcribe(pages, reader, case.batch_size, case.name, options.threads if case.batch_size > 1 else 0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    characters = sum(len(prediction.text) for prediction in found.predictions)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {
        "case": case.name,
        "pages": len(pages),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "pages_per_second": len(pages) / seconds,
        "characters_written": characters,
        "truncated": sum(prediction.truncated for prediction in found.predictions),
        "failed": sum(prediction.error is not None for prediction in found.predictions),
        "batch_size": found.batch_size,
        "memory_halvings": found.memory_halvings,
        "peak_memory_gib": peak,
    }


def table(content: dict) -> str:
    """Return the cases as Markdown, each with its speed relative to the loop without recorded steps."""
    alone = next((case for case in content["cases"] if case["case"] == "one by one"), None)
    lines = [
        "| case | pages | s | CPU s | pages/s | against one by one | peak GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in content["cases"]:
        ratio = f"{case['pages_per_second'] / alone['pages_per_second']:.2f}x" if alone else ""
        peak = f"{case['peak_memory_gib']:.1f}" if case["peak_memory_gib"] else ""
        figures = (
            f"{case['pages']} | {case['seconds']:.1f} | {case['cpu_seconds']:.1f} | {case['pages_per_second']:.3f}"
        )
        lines.append(f"| {case['case']} | {figures} | {ratio} | {peak} |")
    machine = f"{content['device']}, {content['dtype']}, torch {content['versions']['torch']}"
    said = f"{content['model']}, {content['max_new_tokens']} tokens a page at most, {machine}"
    return "\n".join([f"`{content['data']}` read by `{said}`", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JSON file to write; the table goes beside it")
    parser.add_argument("--model", default="tiny-base", help="folder, or tiny-base")
    parser.add_argument("--data", type=Path, required=True, help="a dataset; its eval split is read")
    parser.add_argument("--pages", type=int, default=1000, help="pages of the evaluate step's own way")
    parser.add_argument("--alone", type=int, default=5, help="pages that are read one by one")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_new_tokens", type=int, default=512)
    parser.add_argument(
        "--threads", type=int, default=4 if torch.cuda.is_available() else 0, help="that prepare batches"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = default_device()
    dataset = ShardDataset(options.data, "eval")
    model = load_model(options.model, dtype=default_dtype(device), device=device).eval()
    processor = load_processor(options.model)
    content: dict[str, Any] = {
        "model": Path(options.model).name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": options.data.name,
        "dataset_digest": dataset.manifest.digest,
        "max_new_tokens": options.max_new_tokens,
        "threads": options.threads,
        "device": device_name(device),
        "dtype": str(default_dtype(device)).removeprefix("torch."),
        "versions": software_versions(),
        "date": time.strftime("%Y-%m-%d"),
        "cases": [],
    }
    # The process's one-time work (loading kernels, setting up cuBLAS) should not count in any case.
    warm_up = Case("warm-up", min(2, options.alone), 2, False)
    measured(warm_up, model, processor, dataset, argparse.Namespace(**vars(options) | {"max_new_tokens": 16}))
    for case in cases(options):
        content["cases"].append(measured(case, model, processor, dataset, options))
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(table(content), encoding="utf-8")
    print(table(content))


if __name__ == "__main__":
    main()
