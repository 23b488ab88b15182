"""Addresses of MLflow's local store: folders whose names are special in a URI."""

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
