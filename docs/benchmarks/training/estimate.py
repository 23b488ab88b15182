"""Predicts the peaks that were measured here and writes estimate.json and the table rows of estimate.md.

    python docs/benchmarks/training/estimate.py

Needs no GPU and no weights. Run 1 is left out: the frozen vision encoder still had a backward pass there. So is the
tiny base, whose 0.1 GiB are mostly cuBLAS's workspace.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.benchmark.contenders.full_size_model import save_without_weights
from components.train.config import TrainConfig
from components.train.estimate.memory_estimate import Pages, estimate_memory

FOLDER = Path(__file__).parent
GIB = 2**30
# Pixels of a page, and the longest row in the 16 batches; all rows of that batch are padded to it. Found by drawing
# the same batches (data order of seed 0): their tokens without padding equal those that the runs recorded.
PAGES = {"page640": Pages(640, 640, 1291), "page1024": Pages(768, 1024, 2119)}

# Measured before checkpointing could drop the activations of packed experts (06fb130). All of Unsloth's are outdated in
# these runs: their peak was the vision encoder's table of position biases, which no longer exists (bb38977).
OUTDATED = {
    *("4-standard-gc", "4-standard-gc-2", "4-standard-gc-3", "8-standard-gc", "4-standard-gc-b16"),
    "4-standard-gc-crops",
}

# The benchmark step's reports: the names of their cases, and the longest row in their steps with padding. The search
# for the largest batch has the same row length, because it uses the page with the longest label.
PAGE_640, PAGE_1024 = Pages(640, 640, 1216), Pages(768, 1024, 2112)
BENCHMARKS = {
    "run-14-4-bit.json": ("4-bit", PAGE_640),
    "run-17-16-bit.json": ("16-bit", PAGE_640),
    "run-18-8-bit-standard.json": ("8-bit", PAGE_640),
    "run-18-8-bit-unsloth.json": ("8-bit", PAGE_640),
    "run-19-4-bit-crops.json": ("4-bit, crops", PAGE_1024),
    "run-20-16-bit-crops-standard.json": ("16-bit, crops", PAGE_1024),
    "run-20-16-bit-crops-unsloth.json": ("16-bit, crops", PAGE_1024),
    "run-21-8-bit-crops-standard.json": ("8-bit, crops", PAGE_1024),
    "run-21-8-bit-crops-unsloth.json": ("8-bit, crops", PAGE_1024),
    "run-15-capacity.json": ("4-bit below 24 GiB", PAGE_640),
    "run-16-capacity-unsloth.json": ("4-bit below 24 GiB", PAGE_640),
    "run-22-capacity-features.json": ("4-bit below 24 GiB, kept features", PAGE_640),
}
# Drawn with the data order of seed 0: the second process gets the batch with the longest page, like one GPU does.
SCALING = "run-25-scaling.json"


def cases() -> Iterator[dict[str, Any]]:
    """Yield every measured configuration: its settings, pages and peaks."""
    yield from cases_of_measure()
    yield from benchmark_cases()
    yield from cases_of_several_gpus()


def cases_of_measure() -> Iterator[dict[str, Any]]:
    """Yield each configuration of measure.py once, the first time it was measured, without the outdated ones."""
    seen: set[str] = set()
    for number in (2, 3, 4):
        (path,) = FOLDER.glob(f"run-{number}-*.json")
        for case in json.loads(path.read_text(encoding="utf-8")):
            settings = dict(case["settings"])
            if settings["backend"] == "unsloth":
                continue
            key = json.dumps({**settings, "output_dir": ""}, sort_keys=True)
            if Path(settings["dataset_dir"]).name in PAGES and key not in seen and case["name"] not in OUTDATED:
                seen.add(key)
                yield {**case, "run": path.name, "settings": settings}


def benchmark_cases() -> Iterator[dict[str, Any]]:
    """Yield each contender's training in the benchmark's reports, or its largest batch below the memory cap."""
    for file, (name, pages) in BENCHMARKS.items():
        report = json.loads((FOLDER / file).read_text(encoding="utf-8"))
        for measured in report["measurements"]:
            if measured["status"] != "ok" or measured["repeat"] > 1:
                continue
            given = {"backend": measured["contender"], "dataset_dir": "page640", "output_dir": "adapter"}
            settings = {**report["config"]["train"], **given}
            case = {**measured, "name": f"{name}, {measured['contender']}", "run": file, "pages": pages}
            largest = measured["probes"].get("largest_batch", {"status": "skipped"})
            if largest["status"] == "ok":
                settings |= {"per_device_train_batch_size": largest["pages"]}
                case |= {"peak_memory_bytes": largest["peak_memory_bytes"]}
            elif report["config"]["memory_cap_gib"]:
                continue  # six steps of a configuration that is also in another report
            yield {**case, "settings": settings}


def cases_of_several_gpus() -> Iterator[dict[str, Any]]:
    """Yield the trainings of scaling.py on more than one GPU, with the highest peak of their processes."""
    report = json.loads((FOLDER / SCALING).read_text(encoding="utf-8"))
    for measured in report["cases"]:
        settings = measured["settings"]
        if measured["gpus"] > 1:
            name = f"4-bit, {measured['gpus']} GPUs, {settings['backend']}"
            peak = max(measured["peak_memory_bytes_of_processes"], key=lambda each: each["allocated"])
            yield {**measured, "name": name, "run": SCALING, "pages": PAGE_640, "peak_memory_bytes": peak}


def predicted(case: dict[str, Any], model: Path) -> dict[str, Any]:
    """Return the case with its measured and predicted peak; ``model`` is a folder with config and processor."""
    settings = {**case["settings"], "base_model": str(model)}
    pages = case.get("pages") or PAGES[Path(settings["dataset_dir"]).name]
    estimate = estimate_memory(TrainConfig.model_validate(settings), pages, settings["backend"])
    measured = case["peak_memory_bytes"]["allocated"]
    return {
        "name": case["name"],
        "run": case["run"],
        "pages": asdict(pages),
        "batch": settings["per_device_train_batch_size"],
        "checkpointing": settings.get("gradient_checkpointing", False),
        "measured_bytes": measured,
        "measured_reserved_bytes": case["peak_memory_bytes"]["reserved"],
        "measured_loading_bytes": case.get("loading_peak_memory_bytes", {}).get("allocated"),
        "error": estimate.peak_bytes / measured - 1,
        **asdict(estimate),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        save_without_weights(Path(scratch))
        rows = [predicted(case, Path(scratch)) for case in cases()]
    (FOLDER / "estimate.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("| case | batch × tokens | checkpointing | predicted GiB | measured GiB | error | reserved | loading |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        loading = row["measured_loading_bytes"]
        measured_loading = f"{loading / GIB:.2f}" if loading else "-"
        print(
            f"| {row['name']} | {row['batch']} × {row['pages']['tokens']} | {'yes' if row['checkpointing'] else 'no'}"
            f" | {row['peak_bytes'] / GIB:.2f} | {row['measured_bytes'] / GIB:.2f} | {row['error']:+.1%}"
            f" | {row['measured_reserved_bytes'] / GIB:.2f}"
            f" | {row['loading_peak_bytes'] / GIB:.2f}, {measured_loading} |"
        )


if __name__ == "__main__":
    main()
