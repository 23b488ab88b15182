"""The MLflow run of a step that has ended, for the metadata of its outputs."""

import os
from dataclasses import dataclass
from typing import Any

from components.shared.tracking import mlflow_connection, tracking_runs
from components.shared.tracking.pipeline_run import store_action


@dataclass(frozen=True)
class EndedRun:
    """The ids of an MLflow run and of its experiment."""

    run_id: str
    experiment_id: str


def ended_run(step: str) -> EndedRun | None:
    """Return the last finished MLflow run of ``step`` in this pipeline run; None if nothing was tracked.

    It is looked up in the store: a training with several GPUs is tracked by another process.
    """
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if not pipeline_run or mlflow_connection.missing_store(mlflow_connection.store_uri()):
        return None
    return store_action(lambda client, _: _last(client, pipeline_run, step), "the output does not name its MLflow run")


def _last(client: Any, pipeline_run: str, step: str) -> EndedRun | None:
    runs = tracking_runs.runs_of_pipeline(client, pipeline_run)
    own = [run for run in runs if run.data.tags.get(tracking_runs.STEP_TAG) == step]
    return EndedRun(own[-1].info.run_id, own[-1].info.experiment_id) if own else None
