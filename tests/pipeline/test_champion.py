"""Which version is the champion is asked before anything runs, and is part of what evaluate is cached by."""

import json
from pathlib import Path

import pytest

from components.shared import model_registry
from components.shared.errors import UserError
from pipelines.resolution import resolve


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "page.txt").write_text("A text.")
    return json.dumps({"source": str(tmp_path / "page.txt"), "evaluate": {"champion": "page-reader"}})


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
