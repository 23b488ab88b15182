"""Runs the benchmark step case by case and prints its tables; cases that finish within --minutes keep their files.

    python docs/benchmarks/training/benchmarks.py OUT --model FOLDER --data FOLDER --minutes 9 CASE [CASE ...]

--data is a folder with the datasets page640 and page1024 (see README.md); each case's folder gets benchmark.json,
benchmark.html and the logs. Cases: 4-bit, 8-bit, 16-bit, each also with -crops, capacity, capacity-features.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import attention_of_the_language_model

BOTH, ALL = ["standard", "unsloth"], ["standard", "unsloth", "stock"]
GIB = 2**30
# page640 has 50 steps per epoch. More steps would include a restart of the data workers, which is rare in long epochs.
SPEED = {"max_steps": 50, "warmup_steps": 20, "cer_pages": 0, "generation_tokens": 0}
GENERATION = {"generation_tokens": 64, "generation_batch_size": 8}
CAPACITY = {
    **{"max_steps": 6, "warmup_steps": 2, "cer_pages": 0, "generation_tokens": 0},
    **{"memory_cap_gib": 24.0, "largest_batch_limit": 256, "longest_context_limit": 131072},
}
CASES: dict[str, dict[str, Any]] = {
    "4-bit": {**SPEED, **GENERATION, "bits": 4, "contenders": ALL, "repeats": 3},
    "8-bit": {**SPEED, **GENERATION, "bits": 8, "contenders": BOTH},
    "16-bit": {**SPEED, **GENERATION, "bits": 16, "contenders": BOTH},
    "4-bit-crops": {**SPEED, "bits": 4, "contenders": ALL, "dataset": "page1024"},
    "8-bit-crops": {**SPEED, "bits": 8, "contenders": BOTH, "dataset": "page1024"},
    "16-bit-crops": {**SPEED, "bits": 16, "contenders": BOTH, "dataset": "page1024"},
    "capacity": {**CAPACITY, "bits": 4, "contenders": ALL},
    # The value only turns features on: the benchmark gives each training its own folder.
    "capacity-features": {**CAPACITY, "bits": 4, "contenders": ["unsloth"], "vision_features_dir": "features"},
}


def settings_of(name: str, options: argparse.Namespace, minutes: float) -> dict[str, Any]:
    """Return the benchmark step's settings of a case."""
    case = dict(CASES[name])
    if options.contenders:
        case["contenders"] = [name for name in case["contenders"] if name in options.contenders]
    bits, features = case.pop("bits"), case.pop("vision_features_dir", None)
    train: dict[str, Any] = {
        "target_modules": attention_of_the_language_model(options.model),
        "r": 16,
        "lora_alpha": 32,
        "gradient_checkpointing": True,
        "per_device_train_batch_size": options.batch,
        "dataloader_num_workers": options.workers,
        "max_length": 4096,
        "seed": 0,
    }
    if bits != 16:
        train[f"load_in_{bits}bit"] = True
    if features:
        train["vision_features_dir"] = features
    return {
        "dataset_dir": str(options.data / case.pop("dataset", "page640")),
        "base_model": str(options.model),
        "output_dir": str(options.out / name),
        "train": train,
        "time_limit_minutes": minutes,
        **case,
    }


def lines(report: dict[str, Any]) -> list[str]:
    """Return what a report says, a line per contender, ratio and note."""
    found = []
    for row in report["contenders"]:
        figures = {
            name: round(spread["median"] / (GIB if name.endswith("bytes") else 1), 3)
            for name, spread in row["figures"].items()
        }
        found.append(
            f"  {row['contender']} {row['status']} {row['reason'] or ''} {row['runs']} {figures} {row['missing']}"
        )
    for ratio in report["ratios"]:
        spread = " ".join(f"{ratio[name]:.2f}" for name in ("median", "lowest", "highest"))
        found.append(f"  {ratio['formula']:20} {ratio['quantity']:34} {spread}")
    return found + [f"  {note[:240]}" for note in report["notes"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="for all cases together")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="those of the cases that are to run; else all")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    for name in options.cases:
        minutes = (deadline - time.monotonic()) / 60
        if minutes < 0.5:
            print(f"{name}: no time left", flush=True)
            continue
        options.out.mkdir(parents=True, exist_ok=True)
        config = options.out / f"{name}.config.json"
        config.write_text(json.dumps(settings_of(name, options, minutes), indent=1))
        with (options.out / f"{name}.log").open("w") as log:
            command = [sys.executable, "-m", "components.benchmark", "--config", str(config)]
            environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
            code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
        print(f"## {name}: exit code {code}, {deadline - time.monotonic():.0f} s left", flush=True)
        report = options.out / name / "benchmark.json"
        if report.exists():
            print("\n".join(lines(json.loads(report.read_text()))), flush=True)


if __name__ == "__main__":
    main()
