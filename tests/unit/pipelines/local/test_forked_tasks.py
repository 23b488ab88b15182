"""A local run's tasks are forked from a process that has imported their libraries."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, sys
from pipelines.local.forked_tasks import run_task

if __name__ == "__main__":
    source = open("component.py").read()
    executor_input = {"inputs": {}, "outputs": {"outputFile": os.path.abspath("output_metadata.json")}}
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "component"]
    print("exit code", run_task(["sh", "-ec", "unused", source, *arguments], {"GIVEN": "to the task"}))
"""
COMPONENT = """
def component():
    import atexit, multiprocessing, os, signal, sys
    atexit.register(print, "at exit", flush=True)
    print(os.environ["GIVEN"], os.environ["_KFP_RUNTIME"], multiprocessing.get_start_method(), flush=True)
    {last}
"""
DEFAULT_METHOD = "import multiprocessing; print(multiprocessing.get_start_method())"


@pytest.mark.parametrize(
    ("last", "code", "at_exit"),
    [
        ("pass", 0, True),
        ("raise SystemExit(2)", 2, True),
        ("raise ValueError", 1, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, False),
    ],
)
def test_a_forked_task_behaves_like_its_own_program(tmp_path: Path, last: str, code: int, at_exit: bool) -> None:
    (tmp_path / "component.py").write_text(COMPONENT.format(last=last))
    (tmp_path / "program.py").write_text(PROGRAM)
    answer = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    default = subprocess.check_output([sys.executable, "-c", DEFAULT_METHOD], text=True).strip()
    assert f"to the task true {default}" in answer.stdout.splitlines(), answer.stderr
    assert ("at exit" in answer.stdout) == at_exit
    assert f"exit code {code}" in answer.stdout
