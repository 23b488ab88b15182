"""`deepsynth run` as a program, on a blank tiny model: shared by the tests of local runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
SMALL_RUN: dict[str, object] = {
    "train.max_steps": 2,
    "train.per_device_train_batch_size": 4,
    "evaluate.max_new_tokens": 16,
    "evaluate.bootstrap_resamples": 100,
    "evaluate.classic_ocr": "false",
    "benchmark.max_steps": 2,
    "benchmark.warmup_steps": 1,
    "export.verify": "false",
}


def command(settings: Mapping[str, object], *options: str) -> list[str]:
    """Return the command line of a run with the id r1; ``settings`` extend or override those of ``SMALL_RUN``."""
    given = [f"--set={key}={value}" for key, value in (SMALL_RUN | dict(settings)).items()]
    return [DEEPSYNTH, "run", "--run-id", "r1", *options, *given]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "KFP"))}


def finish(run: Sequence[str], root: Path) -> subprocess.CompletedProcess[str]:
    """Run it in ``root`` to its end."""
    return subprocess.run(run, cwd=root, env=_environment(), capture_output=True, text=True)


def finish_well(run: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run it to its end, without an error, and return its root, its standard output and its standard error."""
    # A space and "python3" in the path: KFP's runner replaces "python3" anywhere.
    root = tmp_path_factory.mktemp("a python3 folder")
    answer = finish(run, root)
    log = root / "runs" / "r1.failed.log"
    assert answer.returncode == 0, answer.stderr + (log.read_text() if log.exists() else "")
    return root, answer.stdout, answer.stderr


def started(run: Sequence[str], root: Path, until: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start it in ``root`` and wait until it prints ``until``; return the process and the file with its stderr."""
    said = root / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(run, cwd=root, env=_environment(), stderr=stderr)
    wait_for(lambda: until in said.read_text())
    return process, said


def tasks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of the run's tasks: Python's fork server is the parent of each."""
    children = psutil.Process(process.pid).children(recursive=True)
    forked = [child for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())]
    return [child for child in forked if any(child.ppid() == server.pid for server in forked)]


def wait_for(happened: Callable[[], bool], seconds: float = 300.0) -> None:
    """Check every 20 ms; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass(frozen=True)
class TrackedRuns:
    """MLflow's records of a pipeline run: all runs, their only parent, and the steps' runs by name."""

    client: MlflowClient
    runs: list[Run]
    parent: Run
    nested: dict[str, Run]


def tracked_runs(root: Path) -> TrackedRuns:
    """Return the runs in the tracking store of ``root``."""
    client = MlflowClient(f"sqlite:///{root / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("deepsynth").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    # The benchmark has nested runs of its own, one per trainer.
    steps = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in steps} == {
        f"{run.data.tags['kfp.run_id']} · {run.data.tags['deepsynth.step']}" for run in steps
    }
    nested = {run.data.tags["deepsynth.step"]: run for run in steps}
    assert len(steps) == len(nested)
    return TrackedRuns(client, list(runs), parent, nested)
