"""The parent run of a pipeline run in MLflow: its tags and its final status, set by the first and the last task.

Errors of the store are logged, not raised: the pipeline's own state must not depend on it.
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from components.shared.errors import without_passwords
from components.shared.tracking import mlflow_connection, tracking_runs
from components.shared.tracking.mlflow_connection import TRACKING_OFF
from components.shared.tracking.step_run import DEFAULT_EXPERIMENT

logger = logging.getLogger(__name__)

# KFP's states and those of its backend's store; an exit task gets either.
_STATUS = {
    "SUCCEEDED": "FINISHED",
    "COMPLETE": "FINISHED",
    "CACHED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "KILLED",
    "CANCELED": "KILLED",
}

T = TypeVar("T")


def tag_pipeline_run(tags: Mapping[str, str]) -> None:
    """Set tags on the parent run of the pipeline run; create that run if no step has done so yet."""

    def tag(client: Any, uri: str) -> None:
        parent = os.environ.get("MLFLOW_RUN_ID")
        if parent is None:
            experiment = tracking_runs.experiment(client, uri, _experiment_name(), of_pipelines=True)
            parent = tracking_runs.parent_run(client, experiment, os.environ["KFP_RUN_ID"])
        for name, value in tags.items():
            client.set_tag(parent, name, value)

    if os.environ.get("KFP_RUN_ID") or os.environ.get("MLFLOW_RUN_ID"):
        _attempt(tag, f"the tags {dict(tags)} were not set")


def close_pipeline_run(state: str, errors: Mapping[str, str] | None = None) -> str | None:
    """Give the parent run of the pipeline run ``KFP_RUN_ID`` its final status and return the status.

    Steps whose status is still RUNNING become KILLED: no task runs any more, and a step that ran out of memory could
    not report it. If ``state`` is not final (KFP may not have settled it yet), the steps' statuses decide. None if
    there is nothing to close: no such run, tracking is off, or ``MLFLOW_RUN_ID`` shows that the run has another owner,
    such as KFP's MLflow plugin.

    ``errors`` says for a step why it ended, if it could not say so itself: its last run gets the tag
    ``deepsynth.error`` unless it has one or succeeded.
    """
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if os.environ.get("MLFLOW_RUN_ID"):
        logger.info("MLFLOW_RUN_ID is set: its owner closes that run")
        return None
    if not pipeline_run or mlflow_connection.missing_store(mlflow_connection.store_uri()):
        return None
    status = _STATUS.get(state.upper())
    return _attempt(
        lambda client, _: _close(client, pipeline_run, status, errors or {}), "the run's final state was not written"
    )


def _close(client: Any, pipeline_run: str, status: str | None, errors: Mapping[str, str]) -> str | None:
    experiment = client.get_experiment_by_name(_experiment_name())
    parent = tracking_runs.existing_parent(client, experiment.experiment_id, pipeline_run) if experiment else None
    if parent is None:
        logger.info("no step of this run was tracked: there is no run to close")
        return None
    _tag_errors(client, pipeline_run, errors)
    tracking_runs.kill_running(client, experiment.experiment_id, parent)
    if status is None:
        return tracking_runs.settle_parent(client, parent, ended=True)
    client.set_terminated(parent, status=status)
    logger.info("the run %s is %s", parent, status)
    return status


def _tag_errors(client: Any, pipeline_run: str, errors: Mapping[str, str]) -> None:
    last = {run.data.tags.get("deepsynth.step"): run for run in tracking_runs.runs_of_pipeline(client, pipeline_run)}
    for step, error in errors.items():
        run = last.get(step)
        if run and run.info.status != "FINISHED" and "deepsynth.error" not in run.data.tags:
            client.set_tag(run.info.run_id, "deepsynth.error", error)


def _attempt(action: Callable[[Any, str], T], failure: str) -> T | None:
    uri = mlflow_connection.store_uri()
    if uri.lower() == TRACKING_OFF:
        return None
    try:
        return action(mlflow_connection.connect(uri), uri)
    except Exception as error:  # whatever the store's libraries raise: the pipeline's state does not depend on them
        reason = mlflow_connection.reason(error)
        logger.warning("MLflow tracking at %s failed; %s: %s", without_passwords(uri), failure, reason)
        return None


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def kill_pipeline_run(pipeline_run: str, uri: str) -> None:
    """Mark an interrupted local run, and its steps that have not ended, as KILLED in the store at ``uri``."""
    os.environ.update({"KFP_RUN_ID": pipeline_run, "MLFLOW_TRACKING_URI": uri})
    close_pipeline_run("CANCELED")
