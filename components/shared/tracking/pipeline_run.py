"""The parent run of a pipeline run in MLflow: its tags and its final status, set by the first and the last task.

Errors of the store are logged, not raised: the pipeline's own state must not depend on it.
"""

import logging
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from components.shared.errors import without_passwords
from components.shared.tracking import mlflow_connection, plugin_runs, tracking_runs
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
        parent = parent_of_pipeline(client, uri)
        for name, value in tags.items():
            client.set_tag(parent, name, value)
        tracking_runs.describe_parent(client, parent)

    if os.environ.get("KFP_RUN_ID") or os.environ.get("MLFLOW_RUN_ID"):
        store_action(tag, f"the tags {dict(tags)} were not set")


def name_pipeline_run(name: str, page: str, tags: Mapping[str, str] = MappingProxyType({})) -> None:
    """Give the parent run the pipeline run's name, its page's address, and tags; create it if no step has done so yet.

    Nothing happens if ``MLFLOW_RUN_ID`` names a run that is not one of KFP's MLflow plugin.
    """

    def give(client: Any, uri: str) -> None:
        given = os.environ.get("MLFLOW_RUN_ID")
        if given is None or plugin_runs.pipeline_run_of_plugin(client, given):
            tracking_runs.name_parent(client, parent_of_pipeline(client, uri), name, page, tags)

    if os.environ.get("KFP_RUN_ID"):
        store_action(give, "the run's name was not set")


def parent_of_pipeline(client: Any, uri: str) -> str:
    """Return the id of the pipeline run's parent run; it is created if needed."""
    if given := os.environ.get("MLFLOW_RUN_ID"):
        of_plugin = plugin_runs.pipeline_run_of_plugin(client, given)
        if of_plugin:
            plugin_runs.take_pipeline_run(client, of_plugin, os.environ.get("KFP_RUN_ID"))
        return of_plugin or given
    experiment = tracking_runs.experiment(client, uri, _experiment_name(), of_pipelines=True)
    return tracking_runs.parent_run(client, experiment, os.environ["KFP_RUN_ID"])


def final_status(state: str) -> str | None:
    """Return MLflow's status for a state of KFP; None if the state is not final."""
    return _STATUS.get(state.upper())


def close_pipeline_run(state: str, errors: Mapping[str, str] | None = None) -> str | None:
    """Give the parent run of the pipeline run ``KFP_RUN_ID`` its final status and return the status.

    Steps whose status is still RUNNING become KILLED: no task runs any more, and a step that ran out of memory could
    not report it. If ``state`` is not final (KFP may not have settled it yet), the steps' statuses decide. None if
    there is nothing to close: no such run, tracking is off, or ``MLFLOW_RUN_ID`` shows that the run has another owner.
    KFP's MLflow plugin closes its runs itself: they get the errors only.

    ``errors`` says for a step why it ended, if it could not say so itself: its last run gets the tag
    ``deepsynth.error`` unless it has one or succeeded.
    """
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if given := os.environ.get("MLFLOW_RUN_ID"):
        logger.info("MLFLOW_RUN_ID is set: its owner closes that run")
        return store_action(
            lambda client, _: _note_errors_in_plugins(client, given, pipeline_run, errors or {}),
            "the steps' errors were not noted",
        )
    if not pipeline_run or mlflow_connection.missing_store(mlflow_connection.store_uri()):
        return None
    status = final_status(state)
    return store_action(
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


def _note_errors_in_plugins(client: Any, given: str, pipeline_run: str | None, errors: Mapping[str, str]) -> None:
    if pipeline_run and plugin_runs.pipeline_run_of_plugin(client, given):
        _tag_errors(client, pipeline_run, errors)


def _tag_errors(client: Any, pipeline_run: str, errors: Mapping[str, str]) -> None:
    last = {run.data.tags.get("deepsynth.step"): run for run in tracking_runs.runs_of_pipeline(client, pipeline_run)}
    for step, error in errors.items():
        run = last.get(step)
        if run and run.info.status != "FINISHED" and "deepsynth.error" not in run.data.tags:
            client.set_tag(run.info.run_id, "deepsynth.error", error)


def store_action(action: Callable[[Any, str], T], failure: str) -> T | None:
    """Return the result of an action on the store; None if tracking is off, or the store failed, which is said once."""
    uri = mlflow_connection.store_uri()
    if uri.lower() == TRACKING_OFF or mlflow_connection.failed_lately(uri):
        return None
    try:
        return action(mlflow_connection.connect(uri), uri)
    except Exception as error:  # whatever the store's libraries raise: the pipeline's state does not depend on them
        level = logging.WARNING if mlflow_connection.first_failure(uri) else logging.DEBUG
        reason = mlflow_connection.reason(error)
        logger.log(level, "MLflow tracking at %s failed; %s: %s", without_passwords(uri), failure, reason)
        return None


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def kill_pipeline_run(pipeline_run: str, uri: str) -> None:
    """Mark an interrupted local run, and its steps that have not ended, as KILLED in the store at ``uri``."""
    os.environ.update({"KFP_RUN_ID": pipeline_run, "MLFLOW_TRACKING_URI": uri})
    close_pipeline_run("CANCELED")
