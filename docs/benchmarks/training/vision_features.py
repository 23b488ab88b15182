"""Trains with and without kept vision features, in each backend, and compares the figures.

    python docs/benchmarks/training/vision_features.py OUT --model FOLDER --data FOLDER --epochs 3 \
        --set load_in_4bit=true,gradient_checkpointing=true,per_device_train_batch_size=16

Three trainings per backend, each in its own process: `plain` without features, `first` with an empty folder, so that it
includes the pass over the pages, `again` with the folder that `first` filled. Each backend has its own folder.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import measure

KINDS = ("plain", "first", "again")
GIB = 2**30


def trained(backend: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one training, or the reason why it failed."""
    case = f"name={backend}-{kind},backend={backend},max_steps=null,num_train_epochs={options.epochs}"
    if kind != "plain":
        case += f",vision_features_dir={options.out.absolute() / f'{backend}-features'}"
    if options.set:
        case += f",{options.set}"
    measured = measure(case, options)
    if "failed" in measured:
        return {"backend": backend, "kind": kind, "failed": measured["failed"]}
    training = json.loads((options.out / measured["name"] / "adapter" / "training.json").read_text())
    return {"backend": backend, "kind": kind, "settings": measured["settings"], **figures(training, options.warmup)}


def figures(training: dict[str, Any], warmup: int) -> dict[str, Any]:
    """Return speed and memory of a training; the steady steps are those after the first ``warmup``."""
    steps, waits = training["step_seconds"], training["data_wait_seconds"]
    seconds = sum(steps[warmup:]) + sum(waits[warmup : len(steps)])
    features = training["vision_features"]
    return {
        "steps": len(steps),
        "median_step_seconds": statistics.median(steps[warmup:]),
        "samples_per_second": sum(training["samples_per_step"][warmup:]) / seconds,
        "data_wait_share": sum(waits[warmup : len(steps)]) / seconds,
        "training_seconds": sum(steps) + sum(waits) + (features["seconds"] if features else 0),
        "vision_features": features,
        "peak_memory_bytes": training["peak_memory_bytes"],
        "losses": training["losses"],
        "step_seconds": steps,
        "versions": training["versions"],
    }


def rows(results: list[dict[str, Any]]) -> list[str]:
    """Return the table, a line per training."""
    head = "training | s/step | samples/s | waiting | pass s | computed, reused, left out | GiB on disk | whole s"
    lines = [f"{head} | peak GiB | steps | largest difference of a loss to plain | losses 1 2 .. last"]
    plain = {result["backend"]: result.get("losses", []) for result in results if result["kind"] == "plain"}
    for result in results:
        name = f"{result['backend']}-{result['kind']}"
        if failed := result.get("failed"):
            lines.append(f"{name} | {failed}")
            continue
        counts = result["vision_features"] or dict.fromkeys(("seconds", "computed", "reused", "left_out", "bytes"), 0)
        pages = f"{counts['computed']}, {counts['reused']}, {counts['left_out']}"
        allocated = result["peak_memory_bytes"]["allocated"]
        losses = result["losses"]
        pairs = zip(losses, plain.get(result["backend"], []), strict=False)
        difference = max((abs(ours - theirs) for ours, theirs in pairs), default=float("nan"))
        lines.append(
            f"{name} | {result['median_step_seconds']:.3f} | {result['samples_per_second']:.1f}"
            f" | {result['data_wait_share']:.1%} | {counts['seconds']:.1f} | {pages} | {counts['bytes'] / GIB:.3f}"
            f" | {result['training_seconds']:.0f} | {'-' if allocated is None else f'{allocated / GIB:.2f}'}"
            f" | {result['steps']} | {difference:.4f} | {losses[0]:.4f} {losses[1]:.4f} .. {losses[-1]:.4f}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=6, help="steps that are not counted; fewer than an epoch has")
    parser.add_argument("--backends", nargs="+", default=["standard", "unsloth"])
    parser.add_argument("--set", default="", help="settings of the train step for all, as name=value,name=value")
    parser.add_argument("--limit", type=int, default=500, help="seconds a training may take")
    options = parser.parse_args()
    options.steps = None  # the number of epochs determines it
    results = []
    for backend in options.backends:
        for kind in KINDS:
            results.append(trained(backend, kind, options))
            print(rows(results)[-1], flush=True)
    report = {"command": sys.argv[1:], "warmup_steps": options.warmup, "trainings": results}
    (options.out / "vision-features.json").write_text(json.dumps(report, indent=1))
    print("\n".join(rows(results)))


if __name__ == "__main__":
    main()
