"""``deepsynth export RUN`` packs the adapter of a run that the gate did not promote, and marks it as such."""

import json
import zipfile
from pathlib import Path

import mlflow
import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from components.shared.errors import UserError
from components.shared.tracking.model_registry import versions_of
from pipelines.command_line import app
from pipelines.settings.pipeline_config import pipeline_config
from tests.fixtures.export_fixture import make_sources, write_gate


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run ``weak``, whose adapter was not promoted."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # restored, whatever the command sets
        monkeypatch.delenv(name)
    folder = make_sources(tmp_path / "runs" / "weak")
    write_gate(folder, folder / "gate", promoted=False)
    values = {"base_model": str(folder / "base"), "export": {"verify": False, "register_as": "reader"}}
    config = pipeline_config(values, "test").model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "runs"


def called(*arguments: str) -> str:
    answer = CliRunner().invoke(app, ["export", *arguments])
    if answer.exception:
        raise answer.exception
    return answer.output


def test_the_package_of_an_unpromoted_adapter_says_so_everywhere(runs: Path) -> None:
    said = called("weak", "--runs-dir", str(runs), "--set", "export.model_name=weak-reader")
    assert "not promoted: for the test" in said and "weak-reader.zip" in said
    archive = runs / "weak" / "package" / "weak-reader.zip"
    with zipfile.ZipFile(archive) as package:
        (card,) = [name for name in package.namelist() if name.endswith("README.md")]
        (lineage,) = [name for name in package.namelist() if name.endswith("lineage.json")]
        text, links = package.read(card).decode(), json.loads(package.read(lineage))
    assert "**Not promoted.** The gate did not find it better than the base: for the test." in text
    assert "not-promoted" in ModelCard(text).data.tags
    assert links["gate"]["promoted"] is False and links["pipeline_run_id"] == "weak"
    (version,) = versions_of("reader")
    assert (version.tags["gate"], version.aliases) == ("not promoted", ("challenger",))
    found = mlflow.MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    tracked = found.search_runs([one.experiment_id for one in found.search_experiments()])
    assert {run.info.status for run in tracked} == {"FINISHED"}
    (step,) = [run for run in tracked if run.data.tags.get("deepsynth.step") == "export"]
    assert step.data.tags["kfp.run_id"] == "weak" and "mlflow.parentRunId" in step.data.tags


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["other"], r"runs/other: no finished run of this name"),
        (["weak", "--set", "train.r=4"], "--set train.r=4: only the settings of the export step"),
        (["weak", "--set", "export.licence=mit"], "licence"),
    ],
)
def test_what_cannot_be_packed_is_refused(runs: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        called(*arguments, "--runs-dir", str(runs))
    assert not (runs / "weak" / "package").exists()


def test_a_run_that_has_its_package_is_not_packed_again(runs: Path) -> None:
    (runs / "weak" / "package").mkdir()
    with pytest.raises(UserError, match="this run has its package already"):
        called("weak", "--runs-dir", str(runs))
