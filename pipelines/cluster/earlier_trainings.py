"""How long a training on a cluster will take, from earlier runs with the same settings, which MLflow keeps."""

import os
from dataclasses import dataclass
from typing import Any

from components.shared.telemetry.progress import duration_text
from components.shared.tracking import mlflow_connection
from components.shared.tracking.step_run import DEFAULT_EXPERIMENT
from pipelines.settings.pipeline_config import SharedSettings

_TIMED = (
    *("base_model", "source", "peft", "r", "load_in_4bit", "load_in_8bit", "dtype", "max_length", "backend"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "num_gpus"),
)
"""Settings that decide how long an optimizer step takes; the parents of runs have them as parameters."""


@dataclass(frozen=True)
class EarlierTraining:
    """The newest finished run whose training did the same work, and the time that this one will take.

    Attributes:
        run: its name.
        seconds: of all optimizer steps, without loading, evaluations and checkpoints.
    """

    run: str
    seconds: float

    def __str__(self) -> str:
        return f"about {duration_text(self.seconds)} of training, as in the run {self.run}"


def earlier_training(config: SharedSettings, uri: str, experiment_name: str | None = None) -> EarlierTraining | None:
    """Return the time of a training by the store at ``uri``; None where no earlier run has these settings.

    Args:
        config: the run's settings.
        uri: MLflow's address.
        experiment_name: the experiment of the runs; by default that of this process's environment.

    Raises:
        Exception: one of ``mlflow_connection.store_errors()``: the store does not answer.
    """
    client = mlflow_connection.connect(uri)
    name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    train = config.step_settings("train")
    wanted = {name: train[name] if name in train else getattr(config, name) for name in _TIMED}
    max_steps = train.get("max_steps")
    if max_steps is None:
        wanted |= {"max_steps": None, "num_train_epochs": train["num_train_epochs"]}
    conditions = [f"params.`{name}` = '{_quoted(value)}'" for name, value in wanted.items()]
    runs = client.search_runs(
        [experiment.experiment_id],
        " and ".join(["metrics.train_seconds > 0", *conditions]),
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return _of_run(runs[0], max_steps) if runs else None


def _of_run(run: Any, max_steps: int | None) -> EarlierTraining:
    metrics = run.data.metrics
    seconds = metrics["train_seconds"]
    if max_steps is not None and metrics.get("train_steps"):
        seconds *= max_steps / metrics["train_steps"]
    return EarlierTraining(run.info.run_name, seconds)


def _quoted(value: Any) -> str:
    return str(value).replace("'", "")
