"""The registry's champion in the pipeline: looked up before anything runs, read on the same pages, beaten or kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import UserError
from components.shared.tracking import model_registry
from pipelines.task_side.resolution import resolve
from tests.pipeline.deepsynth_run import DEEPSYNTH, command, finish


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    return json.dumps({"source": str(tmp_path / "rows.jsonl"), "evaluate": {"champion": "page-reader"}})


def test_another_champion_is_another_input_of_evaluate(config: str, tmp_path: Path) -> None:
    assert resolve(config, {}).champion == "none"
    versions = [model_registry.register(Path(__file__).parent, "page-reader", {}) for _ in range(2)]
    assert resolve(config, {}).champion == "none", "without the alias there is no champion"
    found = []
    for version in versions:
        model_registry.set_alias(version, "champion")
        found.append(resolve(config, {}).champion)
    assert found == ["page-reader version 1", "page-reader version 2"]


def test_without_a_registry_nothing_is_trained_for_a_champion(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: tracking is off, so there is no registry"):
        resolve(config, {})
    without = json.dumps({name: value for name, value in json.loads(config).items() if name == "source"})
    assert resolve(without, {}).champion == "none"


@pytest.mark.slow
def test_the_first_adapter_becomes_champion_and_an_equal_one_does_not_replace_it(model: Path, tmp_path: Path) -> None:
    settings = {
        "base_model": model,
        "prepare.max_documents": 12,
        "prepare.max_train_pages": 16,
        "prepare.max_eval_pages": 4,
        "evaluate.champion": "page-reader",
        "gate.min_documents": 2,
        "export.register_as": "page-reader",
    }
    everything_passes = {"gate.min_improvement": -1000, "gate.max_loop_rate_increase": 1}
    first = finish(command(settings | everything_passes), tmp_path)
    assert first.returncode == 0, first.stderr
    assert gate_of(tmp_path, "r1")["reference"] == "base"
    second = finish(command(settings, "--run-id", "r2"), tmp_path)
    assert second.returncode == 0, second.stderr
    verdict = gate_of(tmp_path, "r2")
    assert (verdict["reference"], verdict["decision"], verdict["improvement"]) == ("champion", "not promoted", 0)
    assert "champion" in second.stdout
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    (version,) = model_registry.versions_of("page-reader", uri=uri)
    assert version.aliases == ("challenger", "champion") and version.tags["gate"] == "promoted"
    listed = finish([DEEPSYNTH, "adapters", "list"], tmp_path).stdout
    assert "page-reader" in listed and "@challenger, @champion" in listed


def gate_of(root: Path, run: str) -> dict[str, Any]:
    return dict(json.loads((root / "runs" / run / "summary.json").read_text())["gate"])
