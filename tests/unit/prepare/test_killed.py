"""prepare killed with SIGKILL at random moments: no worker survives, and the rerun gives the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.shared.artifacts.dataset_manifest import read_manifest
from tests.fixtures.pdf_files import pdf_of_nested_forms
from tests.unit.prepare.test_prepare import prose

ENVIRONMENT = os.environ | {"MLFLOW_TRACKING_URI": "off"}


def command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "components.prepare", "--source", str(folder / "rows.jsonl")),
        *("--output_dir", str(folder / "data"), "--workers", "2", "--max_samples_per_shard", "200"),
    ]


def written_rows(folder: Path) -> None:
    rows = [json.dumps({"text": text}) + "\n" for text in prose(150, words=60)]
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")


def killed_after(folder: Path, seconds: float | None) -> list[psutil.Process]:
    """Start prepare, kill only it ``seconds`` after its work began, and return the processes that it had started.

    None: as soon as a worker draws pages.
    """
    begun = ".data.partial-*/.work-*" if seconds is not None else ".data.partial-*/.work-*/.pages*/pages-*.bin"
    process = subprocess.Popen(command(folder), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(folder.glob(begun)):
            time.sleep(0.01)
        time.sleep(seconds or 0)
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return started


def finished(folder: Path) -> str:
    answer = subprocess.run(command(folder), env=ENVIRONMENT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stderr


def rerun_after_a_kill_gives_the_same(tmp_path: Path, moments: int) -> None:
    written_rows(tmp_path)
    finished(tmp_path)
    digest = read_manifest(tmp_path / "data").digest
    chance = random.Random(moments + 1)
    leftovers = workers = 0
    for seconds in (None, *(chance.uniform(0, 1.5) for _ in range(moments - 1))):
        (tmp_path / "data").rename(tmp_path / f"before-{time.monotonic_ns()}")
        started = killed_after(tmp_path, seconds)
        workers += len(started)
        _, alive = psutil.wait_procs(started, timeout=60)
        assert not alive, "a worker outlived its killed step"
        if (tmp_path / "data").exists():
            continue
        left = list(tmp_path.glob(".data.partial-*"))
        said = finished(tmp_path)
        assert all(f"removed what a killed process left: {path}" in said.replace("\n", "") for path in left)
        leftovers += len(left)
        assert read_manifest(tmp_path / "data").digest == digest
        assert not list(tmp_path.glob(".data*"))
    assert leftovers and workers, "no kill struck while it was working"


@pytest.mark.slow
def test_a_killed_step_leaves_no_worker_and_its_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    rerun_after_a_kill_gives_the_same(tmp_path, moments=1)


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    rerun_after_a_kill_gives_the_same(tmp_path, moments=5)


@pytest.mark.slow
def test_a_killed_step_leaves_no_process_that_reads_a_document(tmp_path: Path) -> None:
    """The reader is busy in C code, which notices nothing of its parent's end."""
    (tmp_path / "a.pdf").write_bytes(pdf_of_nested_forms(depth=14))
    arguments = ["--source", str(tmp_path / "a.pdf"), "--output_dir", str(tmp_path / "data"), "--workers", "1"]
    unlimited = ["--max_document_seconds", "100000", "--max_document_gib", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "components.prepare", *arguments, *unlimited], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    try:
        step, started = psutil.Process(process.pid), list[psutil.Process]()
        while process.poll() is None and not any(is_busy(child) for child in started):
            time.sleep(0.05)
            started = step.children(recursive=True)
        assert process.poll() is None, "it ended before it was killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert started and not alive


def is_busy(process: psutil.Process) -> bool:
    """Return whether a process has computed for longer than its start takes, and is computing now."""
    try:
        return process.cpu_times().user > 3 and process.status() == psutil.STATUS_RUNNING
    except psutil.NoSuchProcess:
        return False
