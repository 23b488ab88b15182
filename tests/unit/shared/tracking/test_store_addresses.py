"""Addresses of MLflow's local store: folders whose names are special in a URI."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from components.shared.tracking.mlflow_connection import missing_store, sqlite_uri, store_file
from components.shared.tracking.step_run import step_run


@pytest.mark.parametrize("name", ["what?", "50%25 off", "#", "a&b=c;d", "größe + 文字"])
def test_a_store_in_a_folder_of_any_name_holds_runs_and_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "report.json").write_text("{}")
    uri = sqlite_uri(Path("mlflow.db"))
    assert store_file(uri) == missing_store(uri) == folder / "mlflow.db"
    with step_run("train", {"seed": 1}) as tracked:
        tracked.log_artifact(tmp_path / "report.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "report.json"])
    assert (folder / "mlflow.db").is_file() and missing_store(uri) is None
    assert len(list((folder / "mlartifacts").rglob("report.json"))) == 1
    assert [entry.path for entry in MlflowClient(uri).list_artifacts(tracked.run_id)] == ["config.json", "report.json"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "postgresql://me@host/x", "sqlite:///:memory:", "file:///x"])
def test_other_addresses_name_no_file(uri: str) -> None:
    assert store_file(uri) is None and missing_store(uri) is None


STEP = """
from components.shared.tracking.step_run import step_run
with step_run("train", {"seed": 1}) as tracked:
    pass
print(tracked.run_id)
"""


@pytest.mark.slow
def test_two_runs_that_start_in_a_new_folder_are_both_tracked(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "runs" / "mlflow.db")
    command, environment = [sys.executable, "-c", STEP], os.environ | {"MLFLOW_TRACKING_URI": uri}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], answers
    found = {run.info.run_id for run in MlflowClient(uri).search_runs(["1"])}
    assert found == {out.strip() for out, _ in answers} and len(found) == 2
    assert not any("failed" in error for _, error in answers), answers


def test_a_missing_driver_is_said_once_and_stops_no_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+pg8000://me:s3cret-word@127.0.0.1:1/mlflow")
    with caplog.at_level(logging.WARNING, logger="components"), step_run("train", {"seed": 1}) as tracked:
        tracked.log_metrics({"loss": 1.0}, step=1)
    (line,) = [record.message for record in caplog.records]
    assert "pg8000" in line and "the step goes on" in line and "s3cret" not in line
