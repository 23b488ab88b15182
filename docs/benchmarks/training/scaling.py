"""Trains each case on 1, 2, ... GPUs of one machine with a fixed batch per GPU, and shows the scaling efficiency.

    python docs/benchmarks/training/scaling.py OUT --model FOLDER --data FOLDER --gpus 1,2 CASE [CASE ...]

`name=4-unsloth,backend=unsloth,load_in_4bit=true` is a case, as for measure.py: a name, then the train step's settings.
Efficiency is the samples/s divided by those expected from linear scaling of the first number in --gpus. All figures
cover the steps after the warm-up and include waiting for data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from measure import settings_of

GIB = 2**30


class Devices:
    """The machine's CUDA devices, divided among trainings that run at the same time."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[list[int]]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            mine, self._free = self._free[:count], self._free[count:]
        try:
            yield mine
        finally:
            with self._changed:
                self._free = sorted(self._free + mine)
                self._changed.notify_all()


def measure(case: str, gpus: int, devices: Devices, options: argparse.Namespace) -> dict:
    settings = settings_of(case, options) | {"num_gpus": gpus}
    name = f"{settings.pop('name')}-{gpus}"
    folder = options.out / name
    folder.mkdir(parents=True)
    settings["output_dir"] = str(folder / "adapter")
    (folder / "train.json").write_text(json.dumps(settings, indent=1))
    command = [sys.executable, "-m", "components.train", "--config", str(folder / "train.json")]
    with devices.taken(gpus if options.side_by_side else 1) as mine, (folder / "log").open("w") as log:
        environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
        if options.side_by_side:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
        started = time.perf_counter()
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, env=environment, check=False, timeout=options.limit
            ).returncode
        except subprocess.TimeoutExpired:
            code = "timeout"
    result = {"name": name, "gpus": gpus, "settings": settings, "wall_seconds": time.perf_counter() - started}
    if code:
        last = [line.strip() for line in (folder / "log").read_text(errors="replace").splitlines() if line.strip()][-3:]
        return result | {"failed": f"exit code {code}: {' | '.join(last)}"[-600:]}
    return result | figures(json.loads((folder / "adapter" / "training.json").read_text()), options.warmup)


def figures(training: dict, warmup: int) -> dict:
    working, waiting = training["step_seconds"][warmup:], training["data_wait_seconds"][warmup:]
    samples = training["samples_per_step"][warmup:]
    memory = training.get("peak_memory_bytes_of_processes") or [training["peak_memory_bytes"]]
    return {
        "processes": training["processes"],
        "device": training["device"],
        "median_step_seconds": statistics.median(working),
        "samples_per_second": sum(samples) / (sum(working) + sum(waiting)),
        "median_samples_per_second": statistics.median(
            count / (work + wait) for count, work, wait in zip(samples, working, waiting, strict=True)
        ),
        "data_wait_share": sum(waiting) / (sum(working) + sum(waiting)),
        "peak_memory_bytes_of_processes": memory,
        "loading_peak_memory_bytes": training["loading_peak_memory_bytes"],
        "versions": training["versions"],
        **{key: training[key] for key in ("trainable_parameters", "step_seconds", "data_wait_seconds")},
        **{key: training[key] for key in ("samples_per_step", "tokens_per_step", "losses")},
    }


def line(result: dict, single: float | None) -> str:
    if failure := result.get("failed"):
        return f"{result['name']:22} {failure}"
    speed = result["median_samples_per_second"]
    efficiency = f"{speed / result['gpus'] / single:6.1%}" if single else "     -"
    peaks = [peak["allocated"] for peak in result["peak_memory_bytes_of_processes"]]
    memory = "/".join("-" if peak is None else f"{peak / GIB:.2f}" for peak in peaks)
    losses = " ".join(f"{loss:.4f}" for loss in result["losses"][:2] + result["losses"][-1:])
    return (
        f"{result['name']:22} {result['median_step_seconds']:7.3f} s/step {speed:8.2f} samples/s  {efficiency}"
        f"  wait {result['data_wait_share']:6.2%}  {memory} GiB  {result['wall_seconds']:4.0f} s  {losses}"
    )


def write(results: dict, counts: list[int], options: argparse.Namespace) -> None:
    ordered = [results[case, gpus] for case in options.cases for gpus in counts if (case, gpus) in results]
    report = {"command": sys.argv[1:], "warmup_steps": options.warmup, "cases": ordered}
    (options.out / "scaling.json").write_text(json.dumps(report, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--gpus", default="1,2")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--limit", type=int, default=300, help="seconds a training may take")
    parser.add_argument(
        "--side_by_side", type=int, help="how many GPUs there are: trainings run at once, each on GPUs of its own"
    )
    options = parser.parse_args()
    counts = [int(count) for count in options.gpus.split(",")]
    devices = Devices(options.side_by_side or 1)
    with ThreadPoolExecutor(options.side_by_side or 1) as pool:
        jobs = {
            (case, gpus): pool.submit(measure, case, gpus, devices, options)
            for gpus in sorted(counts)
            for case in options.cases
        }
        results = {}
        for future in as_completed(jobs.values()):
            results |= {job: future.result() for job, each in jobs.items() if each is future}
            write(results, counts, options)  # after each training, so that an interrupted run keeps its results
    for case in options.cases:
        base = results[case, counts[0]]
        single = None if base.get("failed") else base["median_samples_per_second"] / counts[0]
        for gpus in counts:
            print(line(results[case, gpus], single))


if __name__ == "__main__":
    main()
