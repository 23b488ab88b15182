"""Tries Unsloth with tiny random models of all families, in 16 and in 4 bits: two steps each, in its own process.

    PYTHONPATH=. python docs/benchmarks/training/unsloth_families.py OUT [--data DATASET] --minutes 5

Needs a CUDA device, unsloth and torchvision. Unsloth's compiler is off, because it takes one to two minutes a model;
--compiled leaves it on. OUT/unsloth-families.json says of each family and precision whether it trained, its losses, or
the error. Without --data, the prepare step draws six short pages. On a CPU, --backend standard only tries the command.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision, use_torchvision

_STEPS = 2
_LEAST_SECONDS = 30  # a training that starts later could not import Unsloth


def trained(name: str, in_4_bits: bool, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Train one model and return what came of it."""
    left = min(options.seconds, deadline - time.monotonic())
    if left < _LEAST_SECONDS:
        return {"trains": False, "failed": "no time was left"}
    folder = options.out / f"{name}-{'4' if in_4_bits else '16'}-bit"
    folder.mkdir()
    settings = {
        **{"dataset_dir": str(options.data), "base_model": str(options.out / "models" / name)},
        **{"output_dir": str(folder / "adapter"), "backend": options.backend, "load_in_4bit": in_4_bits},
        **{"max_steps": _STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "max_length": 8192},
    }
    (folder / "train.json").write_text(json.dumps(settings, indent=1))
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off", "OMP_NUM_THREADS": "2"}
    if not options.compiled:
        environment["UNSLOTH_COMPILE_DISABLE"] = "1"
    command = [sys.executable, "-m", "components.train", "--config", str(folder / "train.json")]
    started = time.monotonic()
    with (folder / "train.log").open("wb") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=left
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    found: dict[str, Any] = {"trains": False, "seconds": round(time.monotonic() - started, 1)}
    if code == 0:
        record = json.loads((folder / "adapter" / "training.json").read_text())
        found["losses"] = [round(loss, 4) for loss in record["losses"]]
        found["trains"] = len(record["losses"]) == _STEPS and all(map(math.isfinite, record["losses"]))
    else:
        lines = (folder / "train.log").read_text(errors="replace").strip().splitlines()
        found["failed"] = f"after {int(left)} s" if code == -1 else " | ".join(lines[-3:])[-600:]
    return found


def write_models(options: argparse.Namespace) -> list[str]:
    """Write all tiny models, and the dataset if none was given; return the families."""
    from tests.fixtures.family_matrix import dataset_for_all, makers

    (options.out / "models").mkdir(parents=True)
    made = {}
    for name, write in makers(with_torchvision=obstacle_to_torchvision() is None).items():
        if not options.families or name in options.families:
            write(options.out / "models" / name)
            made[name] = write
    if options.data is None:
        options.data = dataset_for_all(options.out / "models") / "dataset"
    return list(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--families", nargs="+", help="these alone")
    parser.add_argument("--minutes", type=float, default=5.0, help="for all together")
    parser.add_argument("--seconds", type=float, default=150.0, help="for one training")
    parser.add_argument("--jobs", type=int, default=10, help="trainings at the same time")
    parser.add_argument("--backend", default="unsloth", choices=["unsloth", "standard"])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--precisions", nargs="+", type=int, default=[16, 4], choices=[16, 4])
    options = parser.parse_args()
    options.out = options.out.absolute()
    deadline = time.monotonic() + 60 * options.minutes
    if obstacle_to_torchvision() is None:
        use_torchvision()
    names = write_models(options)
    cases = [(name, bits == 4) for bits in options.precisions for name in names]
    report: dict[str, Any] = {"command": sys.argv[1:], "families": {}}
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda case: trained(case[0], case[1], options, deadline), cases)
        for (name, in_4_bits), found in zip(cases, results, strict=True):
            report["families"].setdefault(name, {})["4-bit" if in_4_bits else "16-bit"] = found
            (options.out / "unsloth-families.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("family | precision | trains | losses | seconds | error")
    for name, row in report["families"].items():
        for precision, found in row.items():
            shown = (found["trains"], found.get("losses", ""), found.get("seconds", ""), found.get("failed", "")[-160:])
            print(name, precision, *shown, sep=" | ")


if __name__ == "__main__":
    main()
