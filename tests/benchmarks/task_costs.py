"""CPU seconds and peak memory of every task of the quickstart, each in its own process and control group (Linux, root).

    python -m tests.benchmarks.task_costs --json docs/benchmarks/tasks/quickstart.json
    python -m tests.benchmarks.task_costs --control 5 --json docs/benchmarks/tasks/control.json  # those without a model

Each task runs as KFP's launcher runs it in a pod: KFP's executor, a JSON message, MLflow behind HTTP, logs as JSON,
Python files compiled before. KFP's own programs (a driver pod before each task, the launcher) are not in the figures.

CPU: user and system time of the group. Memory: the largest sum of what the kernel cannot take back (anonymous and
shared memory), looked at every 50 ms, and the peak with cached files, which the kernel drops when a limit is near.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.definition import tasks
from tests.benchmarks.cpu_neighbours import machine
from tests.fixtures.executed_task import ExecutedTask, execute
from tests.fixtures.finished_runs import finished_run
from tests.fixtures.mlflow_server import mlflow_server

MIB = 2**20
_SECONDS_BETWEEN_LOOKS = 0.05
_CONTROLLERS = Path("/sys/fs/cgroup")


class ControlGroup:
    """A new control group, of version 1 or 2."""

    def __init__(self, name: str) -> None:
        if (_CONTROLLERS / "cgroup.controllers").exists():
            self._memory = self._cpu = _CONTROLLERS / name
            self._peak, self._resident = "memory.peak", ("anon", "shmem")
        else:
            self._memory, self._cpu = _CONTROLLERS / "memory" / name, _CONTROLLERS / "cpuacct" / name
            self._peak, self._resident = "memory.max_usage_in_bytes", ("total_rss", "total_shmem")
        for folder in {self._memory, self._cpu}:
            folder.mkdir()

    def enter(self) -> None:
        """Move this process into the group; processes that it starts are in it too."""
        for folder in {self._memory, self._cpu}:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes that were in the group."""
        if self._cpu != self._memory:
            return int((self._cpu / "cpuacct.usage").read_text()) / 1e9
        return _numbers(self._cpu / "cpu.stat")["usage_usec"] / 1e6

    def resident_bytes(self) -> int:
        """Return the memory that cannot be taken back, now."""
        found = _numbers(self._memory / "memory.stat")
        return sum(found.get(name, 0) for name in self._resident)

    def peak_bytes(self) -> int:
        """Return the largest memory so far, with cached files."""
        return int((self._memory / self._peak).read_text())

    def remove(self) -> None:
        for folder in {self._memory, self._cpu}:
            folder.rmdir()


def _numbers(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


@contextmanager
def _largest(look: Callable[[], int]) -> Iterator[Callable[[], int]]:
    """Look again and again in the block; yield a function that returns the largest number seen."""
    seen, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            seen[0] = max(seen[0], look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: seen[0]
    finally:
        ended.set()
        thread.join()


class MeasuredRun:
    """One pipeline run, task by task."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.measurements: list[dict[str, Any]] = []
        self._folder = folder
        self._variables = variables

    def task(self, name: str, parameters: Mapping[str, Any], artifacts: Mapping[str, Path]) -> ExecutedTask:
        """Run one task in its own control group and note what it took."""
        load, group = os.getloadavg()[0], ControlGroup(f"deepsynth-{os.getpid()}-{name}")
        folder = self._folder / f"{len(self.measurements)}-{name}"
        try:
            with _largest(group.resident_bytes) as largest:
                ended = execute(getattr(tasks, name), folder, parameters, artifacts, self._variables, group.enter)
            self.measurements.append(
                {
                    "task": name.replace("_", "-"),
                    "cpu_seconds": round(group.cpu_seconds(), 2),
                    "seconds": round(ended.seconds, 1),
                    "memory_mib": round(largest() / MIB),
                    "with_cached_files_mib": round(group.peak_bytes() / MIB),
                    "load_before": round(load, 1),
                }
            )
        finally:
            _removed(group)
        print(self.measurements[-1], flush=True)
        return ended

    def whole_pipeline(self, config: str) -> None:
        """Run all tasks in the order of the pipeline; export too, whatever the gate decides."""
        chosen = self.task("configure", {"config": config, "skip_if_unchanged": False}, {}).outputs
        base = {"base_digest": chosen["base_digest"]}
        digest = {"source_digest": chosen["source_digest"]}
        dataset = self.task("prepare", {"config": chosen["prepare"], **digest}, {}).artifacts["dataset"]
        adapter = self.task("train", {"config": chosen["train"], **base}, {"dataset": dataset}).artifacts["adapter"]
        evaluation = self.task(
            "evaluate",
            {"config": chosen["evaluate"], "champion": chosen["champion"], **base},
            {"dataset": dataset, "adapter": adapter},
        ).artifacts["evaluation"]
        self.task("benchmark", {"config": chosen["benchmark"], **base}, {"dataset": dataset})
        judged = self.task("gate", {"config": chosen["gate"]}, {"evaluation": evaluation})
        inputs = {"dataset": dataset, "adapter": adapter, "evaluation": evaluation}
        if judged.outputs["Output"] == "promoted":
            self.task("export", {"config": chosen["export"]}, inputs | {"verdict": judged.artifacts["verdict"]})
        self.task("close_run", {"status": {"state": "SUCCEEDED", "error": {}}}, {})

    def control_tasks(self, evaluation: Path) -> None:
        """Run the tasks that load no model, of a run of their own."""
        self._variables = {**self._variables, "KFP_RUN_ID": f"task-costs-{len(self.measurements)}"}
        self.task("configure", {"config": "", "skip_if_unchanged": False}, {})
        self.task("gate", {"config": '{"min_documents": 2}'}, {"evaluation": evaluation})
        self.task("close_run", {"status": {"state": "SUCCEEDED", "error": {}}}, {})


def _removed(group: ControlGroup) -> None:
    """Remove the group once its last process is gone."""
    for _ in range(100):
        try:
            return group.remove()
        except OSError:
            time.sleep(0.1)


def table(measurements: list[dict[str, Any]]) -> str:
    lines = ["| task | CPU, s | elapsed, s | memory, MiB | with cached files, MiB |", "| --- | --- | --- | --- | --- |"]
    for one in measurements:
        cells = (one[name] for name in ("task", "cpu_seconds", "seconds", "memory_mib", "with_cached_files_mib"))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="a configuration file; default: the quickstart")
    parser.add_argument("--control", type=int, default=0, metavar="N", help="only the tasks without a model, N times")
    parser.add_argument("--json", type=Path, help="write the measurements there")
    arguments = parser.parse_args()
    config = arguments.config.read_text(encoding="utf-8") if arguments.config else ""
    with tempfile.TemporaryDirectory(prefix="task-costs-") as name, mlflow_server(Path(name)) as (address, _):
        variables = {
            "MLFLOW_TRACKING_URI": address,
            "KFP_RUN_ID": "task-costs",
            "DEEPSYNTH_LOG": "json",
            "OMP_WAIT_POLICY": "PASSIVE",  # as in the images
            "HOME": name,
        }
        run = MeasuredRun(Path(name) / "tasks", variables)
        for _ in range(arguments.control):
            run.control_tasks(
                finished_run(Path(name) / f"finished-{len(run.measurements)}", "r1", [100] * 12) / "evaluation"
            )
        if not arguments.control:
            run.whole_pipeline(config)
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "machine": machine(), "tasks": run.measurements}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(run.measurements))


if __name__ == "__main__":
    main()
