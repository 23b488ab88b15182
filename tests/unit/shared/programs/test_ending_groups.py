"""A program that ends, even by SIGKILL, takes what it started along, and what that has started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fixtures.vllm_server import runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux")

CHILD = """
import json, os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"])
with open("pids.partial", "w") as file:
    json.dump([os.getpid(), grandchild.pid], file)
os.rename("pids.partial", "pids")
time.sleep(0 if "ends" in sys.argv else 3600)
"""
PARENT = f"""
import os, sys, time
from pathlib import Path
from components.shared.vllm.server_process import start_server
command = [sys.executable, "-S", "-c", {CHILD!r}, *sys.argv[1:]]
process = start_server(command, environment=os.environ, folder=Path.cwd(), output=None)
process.stdout.read()
open("output-ended", "w").close()
time.sleep(3600)
"""
_BOUND = 120  # seconds that a loaded machine may take


def wait_for(folder: Path, name: str) -> None:
    deadline = time.monotonic() + _BOUND
    while not (folder / name).exists():
        assert time.monotonic() < deadline, f"there is no {name}"
        time.sleep(0.02)


def wait_for_the_end_of(*pids: int) -> None:
    deadline = time.monotonic() + _BOUND
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, f"of {pids} some still run"
        time.sleep(0.02)


@pytest.mark.parametrize("killed", ["parent", "child", "none"])
def test_a_grandchild_ends_with_its_child_and_with_its_parent(tmp_path: Path, killed: str) -> None:
    arguments = ["ends"] if killed == "none" else []
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], cwd=tmp_path)
    try:
        wait_for(tmp_path, "pids")
        child, grandchild = json.loads((tmp_path / "pids").read_text())
        assert killed == "none" or (runs(child) and runs(grandchild))
        if killed == "parent":
            parent.kill()
        elif killed == "child":
            os.kill(child, signal.SIGKILL)
        wait_for_the_end_of(child, grandchild)
        if killed != "parent":
            wait_for(tmp_path, "output-ended")
    finally:
        parent.kill()
        parent.wait()
