"""Uploads and downloads that hang end with one line within the time limit."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.tracking.artifact_transfer import TransferTimeoutError, direct_access, transferred
from components.shared.tracking.mlflow_connection import connect
from components.shared.tracking.step_run import step_run


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in [*direct_access(False), "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"]:
        monkeypatch.setenv(name, "x")  # connect() sets these for the process; monkeypatch removes them afterwards
        monkeypatch.delenv(name)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An HTTP server that accepts connections but never answers, like one whose S3 hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_transfer_that_hangs_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSYNTH_ARTIFACT_SECONDS", "0.2")
    hangs = threading.Event()
    with pytest.raises(TransferTimeoutError, match=r"the download of a\.json has not finished after 0\.2 s: .*limit$"):
        transferred(hangs.wait, "the download of a.json", {})
    hangs.set()


def test_a_step_goes_on_after_an_upload_that_hangs(
    silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_experiment("silent", artifact_location=f"{silent_server}/api/2.0/mlflow-artifacts/artifacts/x")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "silent")
    monkeypatch.setenv("DEEPSYNTH_ARTIFACT_SECONDS", "0.3")
    (tmp_path / "report.json").write_text("{}")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="components"), step_run("evaluate", {"seed": 1}) as tracked:
        tracked.log_artifact(tmp_path / "report.json")
    assert time.monotonic() - started < 120, "the limit without the variable is longer"
    assert tracked.run_id and client.get_run(tracked.run_id).info.status == "FINISHED"
    (line,) = [record.message for record in caplog.records if "tracking at" in record.message]
    assert "the upload of config.json has not finished after 0.3 s" in line and "\n" not in line


def test_an_error_and_a_result_pass_through_and_request_limits_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv(name, "10")
    assert transferred(lambda: os.environ[name], "x", {name: "10"}) == "300"
    assert transferred(lambda: os.environ[name], "x", {}) == "10"  # the user's value
    with pytest.raises(ZeroDivisionError):
        transferred(lambda: 1 // 0, "x", {name: "10"})
    assert os.environ[name] == "10"


def test_presigned_addresses_are_not_used_unless_the_user_wants_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    download, upload = direct_access(True)
    monkeypatch.setenv(upload, "true")
    connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (os.environ[download], os.environ[upload]) == ("false", "true")
