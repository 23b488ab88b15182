"""The fork server starts wherever temporary files go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from components.shared.programs.fork_server import running_fork_server

if __name__ == "__main__":
    process = running_fork_server(["json"]).Process(target=print, args=("from the child",))
    process.start()
    process.join()
"""


@pytest.mark.parametrize("name", ["short", "a long name " * 9])
def test_a_child_starts_with_temporary_files_in_any_folder(tmp_path: Path, name: str) -> None:
    (folder := tmp_path / name.strip()).mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"TMPDIR": str(folder)}
    answer = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert answer.stdout == "from the child\n", answer.stderr
    assert not list(folder.iterdir())
