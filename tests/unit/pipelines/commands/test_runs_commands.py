"""``deepsynth list`` for a folder with runs of every state."""

import subprocess
import sys
from pathlib import Path

from components.shared.artifacts.output_folder import finished_folder
from pipelines.commands.runs_commands import listed
from tests.fixtures.finished_runs import finished_run

KILLED_RUN = """
import os, pathlib, signal, sys
from components.shared.artifacts.output_folder import finished_folder
with finished_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "config.yaml").write_text("seed: 0")
    os.kill(os.getpid(), signal.SIGKILL)
"""
DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))


def test_each_state_of_a_run_is_told(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    finished_run(runs, "good", [100, 100, 100])
    (runs / "broken.failed" / "dataset").mkdir(parents=True)
    (runs / "broken.failed" / "config.yaml").write_text("seed: 0\n")
    (runs / "no-run").mkdir()
    for name in ("broken", "wrong-column"):  # the second one failed in its first step
        (runs / f"{name}.failed.log").write_text("no column 'txt'\n")
    # A process that makes a run's folder as `deepsynth run` does, and is killed.
    subprocess.run([sys.executable, "-c", KILLED_RUN, runs / "gone"], check=False)
    with finished_folder(runs / "now") as folder:
        (folder / "config.yaml").write_text("seed: 0\n")
        found = {run.name: run for run in listed(runs)}
        answer = subprocess.run([DEEPSYNTH, "list"], cwd=tmp_path, capture_output=True, text=True)
    assert {name: run.state for name, run in found.items()} == {
        "good": "finished",
        "broken": "failed or interrupted after prepare",
        "now": "running",
        "gone": "killed",
        "wrong-column": "failed before a step finished",
    }
    assert found["good"].verdict in ("promoted", "not promoted") and found["good"].adapter_cer.endswith("%")

    assert answer.returncode == 0 and "deepsynth run --resume RUN" in answer.stderr
    assert "the log of a failed run: runs/RUN.failed.log" in answer.stderr
    assert all(name in answer.stdout for name in found)


def test_no_runs_are_an_error_with_the_way_to_one(tmp_path: Path) -> None:
    answer = subprocess.run([DEEPSYNTH, "list"], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr == "error: runs: no runs yet; start one with: deepsynth run\n"
