"""A killed export leaves no running script, and the next one removes its temporary folders and says so."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.export.publication.finished_package import finished_package
from components.export.step import run
from components.shared.artifacts.output_folder import scratch_folder
from tests.fixtures.export_fixture import export_config, make_sources

PARENT = """
import subprocess, sys
from components.shared.programs.parent_watch import ending_with_parent
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
subprocess.run(ending_with_parent([sys.executable, "-c", child, sys.argv[1]]))
"""
EXPORT = """
import sys
from pathlib import Path
from components.export.package import package_folder
from components.export.step import run
from tests.fixtures.export_fixture import export_config
package_folder._SCRIPT = Path(sys.argv[2]) / "inference.py"
run(export_config(Path(sys.argv[1]), Path(sys.argv[2]) / "out", verify=True))
"""
LEAVES_A_SCRATCH_FOLDER = """
import os
from components.shared.artifacts.output_folder import scratch_folder
with scratch_folder("deepsynth-package") as folder:
    (folder / "weights").touch()
    os.kill(os.getpid(), 9)
"""


def wait_for(happened: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 300  # a busy machine; usually it takes seconds
    while not happened():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.05)


def has_ended(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def kill_the_parent_of(pid_file: Path, process: subprocess.Popen) -> None:
    """Kill ``process`` when its child has written its number, and wait until the child has ended too."""
    wait_for(lambda: pid_file.is_file() and pid_file.read_text().isdigit(), process)
    child = int(pid_file.read_text())
    assert not has_ended(child)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: has_ended(child))


def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "child")])
    kill_the_parent_of(tmp_path / "child", process)


def test_a_scratch_folder_of_a_killed_process_is_removed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", LEAVES_A_SCRATCH_FOLDER], env=environment)
    assert answer.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert (leftover / "weights").is_file()
    elsewhere = tmp_path / f"{leftover.name[:-8]}01234567"  # of another host, whose process may live
    elsewhere.mkdir()
    earlier = tmp_path / leftover.name.replace(leftover.name.split("-")[-2], str(os.getpid()))
    earlier.mkdir()  # of the container's life before this one, whose process had this number
    with scratch_folder("deepsynth-package") as one, scratch_folder("deepsynth-package") as two:
        assert one != two and list(one.iterdir()) == []
        assert set(tmp_path.iterdir()) == {elsewhere, one, two}
    assert f"removed what a killed process left: {leftover}" in caplog.text
    assert list(tmp_path.iterdir()) == [elsewhere]


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_runs_or_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_sources(tmp_path / "made")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    pid_file = tmp_path / "child"
    script = f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    (tmp_path / "inference.py").write_text(script)
    environment = {**os.environ, "TMPDIR": str(temporary), "MLFLOW_TRACKING_URI": "off"}
    command = [sys.executable, "-c", EXPORT, str(made), str(tmp_path)]
    kill_the_parent_of(pid_file, subprocess.Popen(command, env=environment))
    (leftover,) = tmp_path.glob(".out.partial-*")
    assert not [path for path in temporary.iterdir() if path.name.startswith(("deepsynth", "verify"))]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with caplog.at_level(logging.WARNING):
        archive = run(export_config(made, tmp_path / "out")).archive
    assert f"removed what a killed process left: {leftover}" in caplog.text and not leftover.exists()
    with finished_package(archive) as package:
        scratch = package.folder.parent
        shutil.rmtree(package.folder)
    assert not scratch.exists()
