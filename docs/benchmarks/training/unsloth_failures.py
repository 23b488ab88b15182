"""Tries what Unsloth failed at or had no time for, with tiny random models; saves the whole log of each training.

    PYTHONPATH=. python docs/benchmarks/training/unsloth_failures.py OUT --data DATASET --minutes 5

Needs a CUDA device, unsloth and torchvision (SmolVLM: num2words). All cases start at once, each in its own process and
with its own time limit. Gemma 3 and Kosmos-2.5 are tried as the product runs them and in other ways (``_WAYS``);
docs/benchmarks/training/merge_ties.py runs beside them for Qwen3-VL. OUT/unsloth-failures.json has a result as soon as
it is there, OUT/logs the logs. On a CPU, --backend standard only tries the command.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision, use_torchvision

_STEPS = 2
_NOT_COMPILED = {"UNSLOTH_COMPILE_DISABLE": "1"}
_FLEX_EVERYWHERE = (
    "import components.train.vision.frozen_vision as frozen; frozen._attend_without_flex = lambda encoder: None; "
)
_NOT_RECORDED = (
    "import components.train.vision.frozen_vision as frozen; frozen.recorded = lambda forward, *rest: forward; "
)
_WAYS: dict[str, tuple[dict[str, str], str]] = {
    "as the product": (_NOT_COMPILED, ""),
    "compiled": ({}, ""),
    "eager attention": ({**_NOT_COMPILED, "UNSLOTH_ENABLE_FLEX_ATTENTION": "0"}, ""),
    "flex in the encoder, recorded": (_NOT_COMPILED, _FLEX_EVERYWHERE),
    "flex in the encoder, not recorded": (_NOT_COMPILED, _FLEX_EVERYWHERE + _NOT_RECORDED),
    "each kernel awaited": ({**_NOT_COMPILED, "CUDA_LAUNCH_BLOCKING": "1"}, _NOT_RECORDED),
}
"""The environment of a training, and Python lines that run before it."""

_MAIN = "import runpy, sys; sys.argv[0] = 'train'; runpy.run_module('components.train', run_name='__main__')"


@dataclass(frozen=True)
class Case:
    """One training: a family, in 16 or 4 bits, and a way of ``_WAYS``."""

    family: str
    bits: int
    way: str = "as the product"

    @property
    def name(self) -> str:
        return f"{self.family}, {self.bits}-bit, {self.way}"


_CASES = [
    *(Case(family, 4) for family in ("glm4v", "glm_ocr", "idefics3", "smolvlm")),
    *(Case("gemma3", bits, way) for way in ("as the product", "compiled") for bits in (16, 4)),
    *(Case("gemma3", 16, way) for way in list(_WAYS)[2:5]),
    *(Case("kosmos-2.5", bits) for bits in (16, 4)),
    *(Case("kosmos-2.5", 16, way) for way in ("compiled", "each kernel awaited")),
]


@dataclass
class Report:
    """All results; written whole after each."""

    file: Path
    content: dict[str, Any] = field(default_factory=lambda: {"command": sys.argv[1:], "trainings": {}})

    def add(self, name: str, found: Any) -> None:
        self.content["trainings"][name] = found
        self.file.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        print("done:", name, str(found)[:200], flush=True)


def trained(case: Case, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one model; its log goes to OUT/logs."""
    folder = scratch / case.name.replace(" ", "_").replace(",", "")
    settings = {
        **{"dataset_dir": str(options.data), "base_model": str(scratch / "models" / case.family)},
        **{"output_dir": str(folder / "adapter"), "backend": options.backend, "load_in_4bit": case.bits == 4},
        **{"max_steps": _STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "max_length": 8192},
    }
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(settings, indent=1))
    environment, lines = _WAYS[case.way]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off", "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", lines + _MAIN, "--config", str(folder / "train.json")]
    log = options.out / "logs" / f"{folder.name}.log"
    code, seconds = _ended(command, environment, log, options.seconds)
    found: dict[str, Any] = {"trains": False, "seconds": seconds}
    if code == 0:
        record = json.loads((folder / "adapter" / "training.json").read_text())
        found["losses"] = [round(loss, 4) for loss in record["losses"]]
        found["trains"] = len(record["losses"]) == _STEPS and all(map(math.isfinite, record["losses"]))
    else:
        last = log.read_text(errors="replace").strip().splitlines()[-12:]
        found["failed"] = f"after {options.seconds} s" if code is None else " | ".join(last)[-900:]
    return found


def _ended(command: list[str], environment: dict[str, str], log: Path, seconds: float) -> tuple[int | None, float]:
    """Run a command and return its exit code, None after its time limit, and how long it took."""
    started = time.monotonic()
    code: int | None = None
    with log.open("wb") as file, contextlib.suppress(subprocess.TimeoutExpired):  # its code is None then
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=seconds
        ).returncode
    return code, round(time.monotonic() - started, 1)


def ties(scratch: Path, options: argparse.Namespace) -> Any:
    """Run merge_ties.py for Qwen3-VL and return what it wrote, also what it wrote until its time limit."""
    script, out = Path(__file__).with_name("merge_ties.py"), scratch / "ties"
    command = [sys.executable, str(script), str(out), "--data", str(options.data), "--families", "qwen3_vl"]
    code, seconds = _ended(command, dict(os.environ), options.out / "logs" / "merge_ties.log", options.seconds)
    written = out / "merge-ties.json"
    if written.is_file():
        shutil.copy(written, options.out / "merge-ties.json")
    readings = json.loads(written.read_text())["readings"] if written.is_file() else []
    return {"exit_code": code, "seconds": seconds, "readings": readings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", default=[], help="those whose name has one of these words, and no others")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each case, all run at the same time")
    parser.add_argument("--jobs", type=int, default=17)
    parser.add_argument("--backend", default="unsloth", choices=["unsloth", "standard"])
    options = parser.parse_args()
    options.out, options.seconds = options.out.absolute(), 60 * options.minutes
    (options.out / "logs").mkdir(parents=True)
    if obstacle_to_torchvision() is None:
        use_torchvision()
    from tests.fixtures.family_matrix import makers

    every = makers(with_torchvision=obstacle_to_torchvision() is None)
    cases = [case for case in _CASES if not options.cases or any(word in case.name for word in options.cases)]
    report = Report(options.out / "unsloth-failures.json")
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        scratch = Path(name)
        (scratch / "models").mkdir()
        for family in sorted({case.family for case in cases} & every.keys()):
            every[family](scratch / "models" / family)
        running = {}
        if not options.cases or "merge_ties" in options.cases:
            running[pool.submit(ties, scratch, options)] = "merge_ties qwen3_vl"
        running |= {pool.submit(trained, case, scratch, options): case.name for case in cases}
        for done in as_completed(running):
            error = done.exception()
            report.add(running[done], {"trains": False, "failed": repr(error)} if error else done.result())
    _print(report.content["trainings"])


def _print(trainings: dict[str, Any]) -> None:
    print("case | trains | losses | seconds | error")
    for name, found in sorted(trainings.items()):
        if "readings" in found:
            parts = [(row["seed"], row["pages"], len(row["parts"])) for row in found["readings"]]
            print(name, f"(seed, pages, pages that part): {parts}", "", found["seconds"], sep=" | ")
            continue
        shown = (found["trains"], found.get("losses", ""), found.get("seconds", ""), found.get("failed", "")[-200:])
        print(name, *shown, sep=" | ")


if __name__ == "__main__":
    main()
