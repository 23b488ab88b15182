"""The MLflow runs of a pipeline: its experiment, its one parent run, and the parent's status."""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from components.shared.errors import without_passwords
from components.shared.tracking.experiment_view import saved_view
from components.shared.tracking.mlflow_connection import refuses_credentials, store_file
from components.shared.tracking.run_description import description
from components.shared.versions import git_commit, tool_version

PIPELINE_RUN_TAG = "kfp.run_id"
STEP_TAG = "deepsynth.step"
PLANNED_STEPS_TAG = "deepsynth.planned_steps"
"""The optimizer steps of a whole training, also if its settings count epochs."""
CACHED_TAG = "deepsynth.cached."
"""With a step's name behind it: the earlier run that did the step, which KFP's cache answered."""
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "kfp.run_name"
RUN_PAGE_TAG = "kfp.run_page"
"""The address of the pipeline run: its page in KFP, or a local run's folder."""
_OPENS_ON_ITS_RUNS = {"mlflow.experimentKind": "custom_model_development"}
"""Without a kind MLflow's UI opens an experiment on its GenAI page."""
DECISION_TAG = "deepsynth.decision"
"""Set by configure on the parent of a run that trains nothing."""


def experiment(client: Any, uri: str, name: str, *, of_pipelines: bool = False) -> str:
    """Return the experiment's id, created if needed; beside a SQLite file its artifacts are in ``mlartifacts``.

    An experiment ``of_pipelines`` gets a saved view that compares their runs.
    """
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    file = store_file(uri)
    location = (file.parent / "mlartifacts").as_uri() if file else None
    tags = _OPENS_ON_ITS_RUNS | (saved_view() if of_pipelines else {})
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except MlflowException:
        # Another step may have created it in the meantime.
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def parent_run(client: Any, experiment_id: str, pipeline_run: str) -> str:
    """Find or create the one run whose tag ``kfp.run_id`` is ``pipeline_run``.

    Two steps that start together may both create it: each then searches again, and the oldest stays.
    """
    if found := _parents(client, experiment_id, pipeline_run):
        return found[0]
    tags, name = parent_tags(pipeline_run), _parent_name(pipeline_run)
    created = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    oldest = _parents(client, experiment_id, pipeline_run)[0]
    if oldest != created:
        withdraw(client, created)
    return oldest


def withdraw(client: Any, run_id: str) -> None:
    """Delete a run; an account that may not delete in this experiment ends it."""
    from mlflow.exceptions import MlflowException

    try:
        client.delete_run(run_id)
    except MlflowException as error:
        if not refuses_credentials(error):
            raise
        client.set_terminated(run_id, "KILLED")


def parent_tags(pipeline_run: str) -> dict[str, str]:
    """Return the tags of a pipeline run's parent run."""
    return {PIPELINE_RUN_TAG: pipeline_run, "deepsynth.pipeline": "true"} | source_tags()


def source_tags() -> dict[str, str]:
    """Return the tags from which MLflow's UI shows a run's source, and this project's version."""
    tags = {"deepsynth.version": tool_version(), "mlflow.source.name": "deepsynth", "mlflow.source.type": "LOCAL"}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def existing_parent(client: Any, experiment_id: str, pipeline_run: str) -> str | None:
    """Return the id of the run that ``parent_run`` created; None if no step has called it."""
    return next(iter(_parents(client, experiment_id, pipeline_run)), None)


def _parent_name(pipeline_run: str) -> str:
    """Return the name until ``name_parent`` gives another: a local run's id is its name, a cluster's is a UUID."""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", pipeline_run):
        return f"pipeline {datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S} {pipeline_run[:8]}"
    return pipeline_run


def name_parent(client: Any, parent_id: str, name: str, page: str, tags: Mapping[str, str]) -> None:
    """Give the parent the pipeline run's name, tags, and its page's address as a tag and in the description."""
    if client.get_run(parent_id).info.run_name != name:
        client.update_run(parent_id, name=name)
    more = {RUN_PAGE_TAG: without_passwords(page)} if page else {}
    for key, value in {RUN_NAME_TAG: name, **more, **tags}.items():
        client.set_tag(parent_id, key, value)
    describe_parent(client, parent_id)


def runs_of_pipeline(client: Any, pipeline_run: str) -> list[Any]:
    """Return all runs tagged with the pipeline run's id, from all experiments, the oldest first."""
    return _tagged(client, [experiment.experiment_id for experiment in client.search_experiments()], pipeline_run)


def _parents(client: Any, experiment_id: str, pipeline_run: str) -> list[str]:
    runs = _tagged(client, [experiment_id], pipeline_run)
    return [run.info.run_id for run in runs if PARENT_TAG not in run.data.tags]


def _tagged(client: Any, experiments: list[str], pipeline_run: str) -> list[Any]:
    value = pipeline_run.replace("'", "")
    runs = client.search_runs(experiments, f"tags.`{PIPELINE_RUN_TAG}` = '{value}'") if experiments else []
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _nested(client: Any, experiment_id: str, parent_id: str) -> list[Any]:
    runs = client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}'")
    return sorted(runs, key=lambda run: run.info.start_time)


def run_or_none(client: Any, run_id: str) -> Any | None:
    """Return a run; None if the store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def top_parent(client: Any, run: Any) -> Any | None:
    """Return the run above ``run`` that has no parent itself; None if there is none above it, or it is gone."""
    found = None
    while parent := (found or run).data.tags.get(PARENT_TAG):
        found = run_or_none(client, parent)
        if found is None:
            return None
    return found


def cached_runs(client: Any, parent: Any) -> dict[str, Any]:
    """Return step -> the earlier run that did it, for the steps of ``parent`` that KFP's cache answered."""
    named = {
        name.removeprefix(CACHED_TAG): run_id
        for name, run_id in parent.data.tags.items()
        if name.startswith(CACHED_TAG)
    }
    found = {step: run_or_none(client, run_id) for step, run_id in named.items()}
    return {step: run for step, run in found.items() if run}


def kill_running(client: Any, experiment_id: str, parent_id: str) -> None:
    """Mark all runs below the parent, at any depth, whose status is RUNNING as KILLED."""
    for run in _nested(client, experiment_id, parent_id):
        kill_running(client, experiment_id, run.info.run_id)
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, status="KILLED")


def settle_parent(client: Any, parent_id: str, *, ended: bool) -> str:
    """Set the parent's status from the latest nested run of each step, and return it; a retried step counts once.

    Only a pipeline that has ``ended``, and whose last step finished, is FINISHED. Between two steps the parent is
    RUNNING; a pipeline that ended there was terminated, so its parent is KILLED.
    """
    parent = client.get_run(parent_id)
    latest: dict[str, Any] = {}
    for run in _nested(client, parent.info.experiment_id, parent_id):
        latest[run.data.tags.get(STEP_TAG, run.info.run_id)] = run
    states = [run.info.status for run in latest.values()]
    complete = "FINISHED" if ended and reached_its_end(client, parent) else "KILLED"
    order = ("RUNNING", "FAILED", "KILLED")
    status = next((one for one in order if one in states), complete if ended else "RUNNING")
    if status == "RUNNING":
        client.update_run(parent_id, status=status)
    else:
        client.set_terminated(parent_id, status=status)
    return status


def reached_its_end(client: Any, parent: Any) -> bool:
    """Return whether the pipeline's last step finished; gate and export have a run each time, none is ever cached."""
    if DECISION_TAG in parent.data.tags:
        return True
    steps = {run.data.tags[STEP_TAG]: run for run in step_runs(client, parent)}
    gate = steps.get("gate")
    return gate is not None and (gate.data.tags.get("gate") != "promoted" or "export" in steps)


def step_runs(client: Any, parent: Any) -> list[Any]:
    """Return the runs of the parent's steps, the oldest first; KFP's plugin puts its sub-pipelines' runs between."""
    if pipeline_run := parent.data.tags.get(PIPELINE_RUN_TAG):
        runs = _tagged(client, [parent.info.experiment_id], pipeline_run)
    else:  # a parent that MLFLOW_RUN_ID named
        runs = _nested(client, parent.info.experiment_id, parent.info.run_id)
    return [run for run in runs if STEP_TAG in run.data.tags]


def nested_name(client: Any, parent_id: str | None, pipeline_run: str | None, step: str) -> str:
    """Return the name of a step's run: in a list of many runs it says whose step it is."""
    if parent_id and (name := client.get_run(parent_id).data.tags.get(RUN_NAME_TAG)):
        return f"{name} · {step}"
    return f"{pipeline_run} · {step}" if pipeline_run else step


def describe_parent(client: Any, parent_id: str) -> None:
    """Write the parent's description from its figures, its tags and its steps' runs."""
    parent = client.get_run(parent_id)
    if text := description(parent, step_runs(client, parent), cached_runs(client, parent)):
        client.set_tag(parent_id, "mlflow.note.content", text)
