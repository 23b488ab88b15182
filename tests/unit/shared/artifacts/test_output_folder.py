"""Two steps with one output folder, killed steps, and a rename that fails."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts import output_folder
from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import UserError

HOLD = """
import sys
from pathlib import Path
from typing import Any
from components.shared.artifacts.output_folder import finished_folder
with finished_folder(Path(sys.argv[1])) as folder:
    (folder / "work").write_text("mine")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def holder(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "writing\n"
    return process


def test_a_second_process_is_refused_at_its_start_and_the_first_keeps_its_work(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with holder(target) as process:
        with (
            pytest.raises(UserError, match=rf"process {process.pid} on .+ is writing") as refusal,
            finished_folder(target),
        ):
            pytest.fail("the block was entered")
        assert refusal.value.where == str(target)
        process.communicate("\n", timeout=300)
    assert process.returncode == 0
    assert (target / "work").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target], "no lock and no partial folder stay"


def test_a_second_thread_is_refused_too(tmp_path: Path) -> None:
    refusals = []

    def enter() -> None:
        try:
            with finished_folder(tmp_path / "out"):
                pass
        except UserError as error:
            refusals.append(error.problem)

    with finished_folder(tmp_path / "out") as folder:
        (folder / "work").touch()
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert refusals == [f"process {os.getpid()} is writing this output folder"]
    assert (tmp_path / "out" / "work").exists()


def test_what_a_killed_process_left_is_removed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "out"
    with holder(target) as process:
        process.send_signal(signal.SIGKILL)
    (leftover,) = tmp_path.glob(".out.partial-*")
    elsewhere = (
        tmp_path / ".out.partial-7-0123abcd"
    )  # from another host, which may share this disk and still be writing
    elsewhere.mkdir()
    other = tmp_path / leftover.name.replace(".out.", ".out2.")
    other.mkdir()
    with caplog.at_level(logging.WARNING), finished_folder(target) as folder:
        (folder / "work").touch()
    assert f"removed what a killed process left: {leftover}" in caplog.text
    assert sorted(tmp_path.iterdir()) == sorted([target, elsewhere, other])


def test_a_forked_child_that_outlives_a_killed_step_does_not_hold_its_lock(tmp_path: Path) -> None:
    program = HOLD.replace('print("writing"', 'import os, time\n    os.fork() or time.sleep(600)\n    print("writing"')
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(300)
        with finished_folder(tmp_path / "out"):
            pass
        os.killpg(process.pid, 0)  # the child lives
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_if_the_last_rename_fails_the_work_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    said = r"cannot be moved to its place .+ kept in "
    with pytest.raises(UserError, match=said) as refusal, finished_folder(target) as folder:
        (folder / "work").write_text("hours of it")
        target.mkdir()
        (target / "in the way").touch()
    (kept,) = tmp_path.glob("out.kept-*")
    assert str(kept) in refusal.value.problem
    assert (kept / "work").read_text() == "hours of it"


def test_without_locks_on_the_file_system_the_step_runs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(output_folder.fcntl, "lockf", no_locks)
    with finished_folder(tmp_path / "out") as folder:
        (folder / "work").touch()
    assert "the file system has no locks" in caplog.text
    assert (tmp_path / "out" / "work").exists()


def test_without_locks_what_a_living_process_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    living, dead, ours = (
        tmp_path / f".out.partial-{number}-{output_folder._host()}" for number in (os.getppid(), ended.pid, os.getpid())
    )
    for folder in (living, dead, ours):
        (folder / "work").mkdir(parents=True)
    monkeypatch.setattr(output_folder.fcntl, "lockf", no_locks)
    with finished_folder(tmp_path / "out") as folder:
        assert folder == ours and list(folder.iterdir()) == []
        assert living.is_dir() and not dead.exists()


def test_a_lock_that_its_last_holder_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, stat = tmp_path / ".out.lock", Path.stat
    removed = []

    def stat_after_the_end(path: Path, **options: Any) -> os.stat_result:
        if path == lock and not removed:
            removed.append(path)
            found = stat(path, **options)
            lock.unlink()  # where the file is looked at twice, the second look finds nothing
            return found
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_after_the_end)
    with finished_folder(tmp_path / "out") as folder:
        (folder / "work").touch()
    assert (tmp_path / "out" / "work").exists()
