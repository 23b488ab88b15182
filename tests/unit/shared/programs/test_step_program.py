"""How a step's process ends: its exit code, its last line of output, and the termination message for Kubernetes."""

import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.errors import UserError
from components.shared.programs.step_command import step_main
from components.shared.programs.step_config import StepConfig
from pipelines.task_side.task_entry import task

PREPARE = [sys.executable, "-m", "components.prepare", "--workers", "1", "--output_dir"]


class Config(StepConfig):
    """The config of a step that fails."""

    output_dir: Path = Path("out")
    per_device_train_batch_size: int = 8
    load_in_4bit: bool = False


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that serves as Kubernetes' termination message."""
    monkeypatch.setenv("DEEPSYNTH_TERMINATION_LOG", str(tmp_path / "termination-log"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return tmp_path / "termination-log"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def ended(fail: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the last line of output of a step that calls ``fail``."""
    code = step_main("train", Config, lambda config: fail(), [])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said.splitlines()[-1]


def test_what_the_user_can_mend_is_the_termination_message(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("not a picture", where="scans/7.png, page 2", mend="scan it again")

    code, line = ended(fail, capsys)
    assert (code, line) == (2, "error: scans/7.png, page 2: not a picture; scan it again")
    assert message.read_text() == "train: scans/7.png, page 2: not a picture; scan it again"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--output_dir", "/dev/null/x/y", "error: /dev/null/x: a part of the path is a file, not a folder"),
        ("--output_dir", "/dev/null/x", "error: /dev/null: a file or folder of this name exists already"),
        ("--output_dir", "/" + "a" * 300, "error: /aaaa.*…: the name is longer than the file system allows"),
        ("--source", "b" * 300, "error: bbbb.*…: the name is longer than the file system allows"),
        ("--source", "/" + "b/" * 2500, "error: /b/b.*…: the name is longer than the file system allows"),
    ],
)
def test_a_path_that_cannot_be_is_named(
    tmp_path: Path, message: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    options = {"--source": str(tmp_path), "--output_dir": str(tmp_path / "out")} | {option: value}
    (tmp_path / "page.txt").write_text("A page.\n")
    assert step_main("prepare", PrepareConfig, prepare, [part for pair in options.items() for part in pair]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(said, last) and len(last) < 300 and last.endswith("name another place")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(5000)),
        lambda path: save_file({"a": torch.zeros(5000)}, path),
        lambda path: sqlite3.connect(path).execute("CREATE TABLE a (b)"),
    ],
    ids=["Python", "safetensors", "SQLite"],
)
def test_a_file_that_may_not_be_so_large(
    message: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, write: Callable[[Path], None]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fail() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            write(tmp_path / "weights")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    code, line = ended(fail, capsys)
    assert code == 2 and "a file would be larger than the file system or ulimit -f allows" in line


def test_a_long_message_is_cut_between_two_letters(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise long

    long = UserError("x" + "ü" * 1900, where="ü" * 1900, mend="ü")
    ended(fail, capsys)
    assert len(message.read_bytes()) in (4095, 4096) and len(f"train: {long}".encode()) > 7000
    assert f"train: {long}".startswith(message.read_text(encoding="utf-8"))


def test_a_message_that_cannot_be_left_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DEEPSYNTH_TERMINATION_LOG", "/dev/full")

    def fail() -> None:
        raise UserError("not a picture")

    code, line = ended(fail, capsys)
    assert (code, line) == (2, "error: not a picture")
    assert "the termination message cannot be written to /dev/full: No space left on device" in caplog.text


def test_an_error_of_ours_keeps_its_traceback_and_has_a_message(message: Path) -> None:
    def fail(config: Config) -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError):
        step_main("train", Config, fail, [])
    assert message.read_text() == "train: ZeroDivisionError: division by zero (the log has the traceback)"


def cuda_out_of_memory() -> None:
    # torch 2.11's message on an H100 shared with another process; where the log cut the line, the figures are made up
    # with the same length.
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 34.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 32.56 MiB is"
        " free. Process 496 has 77.67 GiB memory in use. Including non-PyTorch memory, this process has 1.47 GiB memory"
        " in use. Of the allocated memory 843.12 MiB is allocated by PyTorch, and 51.88 MiB is reserved by PyTorch but"
        " unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
        "=expandable_segments:True to avoid fragmentation.  See documentation for Memory Management"
    )


def wrapped_out_of_memory() -> None:
    try:
        cuda_out_of_memory()
    except torch.OutOfMemoryError as error:
        raise RuntimeError("the compiler failed") from error


@pytest.mark.parametrize(
    ("fail", "named"),
    [
        (cuda_out_of_memory, ["GPU: train ran out of memory (CUDA out of memory. Tried", "batch_size (it is 8;"]),
        (cuda_out_of_memory, ["this process has 1.47 GiB memory", "51.88 MiB is reserved by PyTorch but"]),
        (wrapped_out_of_memory, ["GPU: train ran out of memory (CUDA", "set load_in_4bit to true"]),
        (lambda: torch.empty(2**55), ["RAM: train ran out of memory (", "tried to allocate", "load_in_4bit"]),
        (lambda: bytearray(2**62), ["RAM: train ran out of memory; lower per_device_train_batch_size"]),
    ],
)
def test_out_of_memory_says_which_settings_take_less(
    fail: Callable[[], Any], named: list[str], message: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = ended(fail, capsys)
    assert code == 2
    for part in named:
        assert part in line
    assert message.read_text() == "train: " + line.removeprefix("error: ")


def test_a_full_disk_is_named_with_what_is_free(small_disk: Path, message: Path) -> None:
    answer = subprocess.run([*PREPARE, str(small_disk / "out")], capture_output=True, text=True)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert str(small_disk) in line and "no space is left on the disk (0 MiB are free in" in line
    assert line.endswith("; make room there, or name a folder on a larger disk")
    assert message.read_text() == "prepare: " + line.removeprefix("error: ")
    assert list(small_disk.iterdir()) == []


def test_a_library_s_word_for_a_full_disk_is_understood(
    small_disk: Path, message: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {"weight": torch.zeros(2**20)}
    arguments = ["--output_dir", str(small_disk / "out")]
    code = step_main("train", Config, lambda _: save_file(tensors, small_disk / "a.safetensors"), arguments)
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert line.startswith(f"error: output_dir {small_disk}/out: no space is left on the disk (")
    assert line.count(" MiB are free in ") == 2  # for the small disk and for the disk with the temporary files


def test_a_folder_that_may_not_be_written_is_named_with_the_user(tmp_path: Path, message: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    as_others = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []  # root may write everywhere
    command = [*as_others, *PREPARE, str(tmp_path / "theirs" / "out")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    line = answer.stderr.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/theirs/.out.lock")
    who = f"(for the user {os.getuid()}, group {os.getgid()})"
    assert f": permission denied {who}; give this user the right to use it" in line
    assert message.read_text() == "prepare: " + line.removeprefix("error: ")


def test_a_terminated_step_cleans_up_and_says_so(tmp_path: Path, message: Path) -> None:
    with subprocess.Popen([*PREPARE, "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 300
            while not list(tmp_path.glob(".out.partial-*/.work-*/.pages*")) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be terminated"
            os.kill(process.pid, signal.SIGTERM)
            said = process.communicate(timeout=300)[1]
        finally:
            process.kill()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert message.read_text() == "prepare: terminated by SIGTERM (preempted, deleted, or out of time)"
    assert list(tmp_path.iterdir()) == [message]


def test_a_task_of_the_pipeline_ends_as_the_step_alone_does(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, task("prepare", "draw partition 2 of 4"):
        Path("/dev/full").write_text("x")
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "no space is left on the disk (" in line and "are free in" in line
    assert message.read_text() == "prepare (draw partition 2 of 4): " + line.removeprefix("error: ")


@pytest.mark.parametrize("step", ["prepare", "train", "evaluate", "benchmark", "gate", "export"])
def test_each_step_is_a_program_of_its_own(step: str) -> None:
    answer = subprocess.run([sys.executable, "-m", f"components.{step}", "--help"], capture_output=True, text=True)
    assert answer.returncode == 0 and "--output_dir" in answer.stdout, answer.stderr


def test_a_config_file_can_ask_for_a_check_alone(
    tmp_path: Path, message: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Config] = []
    file = tmp_path / "settings.yaml"
    for text, runs in (("check_only: true", 0), ("check_only: false", 1), ("per_device_train_batch_size: 2", 2)):
        file.write_text(text)
        assert step_main("train", Config, ran.append, ["--config", str(file)]) == 0
        assert len(ran) == runs
    file.write_text("config: another.yaml")
    assert step_main("train", Config, ran.append, ["--config", str(file)]) == 2
    assert "a config file cannot name another one" in capsys.readouterr().err
