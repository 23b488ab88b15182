"""The fork server starts wherever temporary files go."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from components.shared.foreign_files.fork_server import running_fork_server

if __name__ == "__main__":
    process = running_fork_server(["json"]).Process(target=print, args=("from the child",))
    process.start()
    process.join()
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["short", "a long name " * 9])
def test_a_child_starts_with_temporary_files_in_any_folder(tmp_path: Path, name: str) -> None:
    (folder := tmp_path / name.strip()).mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"TMPDIR": str(folder)}
    answer = subprocess.run(
        [sys.executable, "program.py", "0"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert answer.stdout == "from the child\n", answer.stderr
    assert not list(folder.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for a socket's name
    (tmp_path / "program.py").write_text(PROGRAM)
    try:
        for number, left in ((signal.SIGKILL, 1), (signal.SIGKILL, 1), (0, 0)):
            command = [sys.executable, "program.py", str(int(number))]
            answer = subprocess.run(command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(folder)}, timeout=120)
            assert answer.returncode == -number
            assert len(list(folder.iterdir())) == left
    finally:
        shutil.rmtree(folder)
