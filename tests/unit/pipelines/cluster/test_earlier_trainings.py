"""The time of a training before it starts, from the runs in MLflow."""

from pathlib import Path
from typing import Any

import pytest

from components.shared.tracking.step_run import step_run
from pipelines.cluster.earlier_trainings import EarlierTraining, earlier_training
from pipelines.settings.command_settings import checked_config


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def train(monkeypatch: pytest.MonkeyPatch, run: str, seconds: float, steps: int, *settings: str) -> None:
    """Log a training of ``steps`` steps in ``seconds`` as the step does."""
    config = checked_config(None, list(settings))
    values: dict[str, Any] = {"source": config.source} | config.step_settings("train")
    monkeypatch.setenv("KFP_RUN_ID", run)
    with step_run("train", values) as tracked:
        tracked.summarize({"train_seconds": seconds, "train_steps": float(steps)})


def test_the_newest_run_with_the_same_work_tells_the_time(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert earlier_training(checked_config(None, []), store) is None
    train(monkeypatch, "r1", 100.0, 50, "train.max_steps=50")
    train(monkeypatch, "r2", 300.0, 50, "train.max_steps=50", "train.per_device_train_batch_size=8")
    train(monkeypatch, "r3", 20.0, 5, "train.max_steps=null")

    def found(*settings: str) -> EarlierTraining | None:
        return earlier_training(checked_config(None, list(settings)), store)

    assert found("train.max_steps=75", "train.per_device_train_batch_size=8", "train.learning_rate=0.5") == (
        EarlierTraining("r2", 450.0)
    )
    assert found("train.max_steps=75") == EarlierTraining("r3", 300.0), "the newest, by its steps"
    assert found("train.max_steps=null") == EarlierTraining("r3", 20.0)
    assert found("train.max_steps=null", "train.num_train_epochs=2") is None, "as many steps as nobody has counted"
    assert found("train.max_steps=75", "source=elsewhere") is None
    assert str(found("train.max_steps=75")) == "about 5 min of training, as in the run r3"
