"""The MLflow runs of a pipeline: its experiment, its one parent run, and the parent's status."""

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.errors import without_passwords
from components.shared.tracking.mlflow_connection import store_file, transferred

PIPELINE_RUN_TAG = "kfp.run_id"
_LONGEST_DIGEST = 36
_PARAMETERS_PER_BATCH = 100


def experiment(client: Any, uri: str, name: str) -> str:
    """Return the experiment's id, created if needed; beside a SQLite file its artifacts are in ``mlartifacts``."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    file = store_file(uri)
    location = (file.parent / "mlartifacts").as_uri() if file else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
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
    tags = {PIPELINE_RUN_TAG: pipeline_run, "deepsynth.pipeline": "true"}
    created = client.create_run(experiment_id, tags=tags, run_name=_parent_name(pipeline_run)).info.run_id
    oldest = _parents(client, experiment_id, pipeline_run)[0]
    if oldest != created:
        client.delete_run(created)
    return oldest


def existing_parent(client: Any, experiment_id: str, pipeline_run: str) -> str | None:
    """Return the id of the run that ``parent_run`` created; None if no step has called it."""
    return next(iter(_parents(client, experiment_id, pipeline_run)), None)


def _parent_name(pipeline_run: str) -> str:
    """Return a name that sorts by time: a local run's id does, a cluster's is a UUID."""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", pipeline_run):
        return f"pipeline {datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S} {pipeline_run[:8]}"
    return f"pipeline {pipeline_run}"


def runs_of_pipeline(client: Any, pipeline_run: str) -> list[Any]:
    """Return all runs tagged with the pipeline run's id, from all experiments, the oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    value = pipeline_run.replace("'", "")
    runs = client.search_runs(experiments, f"tags.`{PIPELINE_RUN_TAG}` = '{value}'")
    return sorted(runs, key=lambda run: run.info.start_time)


def _parents(client: Any, experiment_id: str, pipeline_run: str) -> list[str]:
    value = pipeline_run.replace("'", "")
    runs = client.search_runs([experiment_id], f"tags.`{PIPELINE_RUN_TAG}` = '{value}'")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return [run.info.run_id for run in sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))]


def _nested(client: Any, experiment_id: str, parent_id: str) -> list[Any]:
    runs = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent_id}'")
    return sorted(runs, key=lambda run: run.info.start_time)


def kill_running(client: Any, experiment_id: str, parent_id: str) -> None:
    """Mark all runs below the parent, at any depth, whose status is RUNNING as KILLED."""
    for run in _nested(client, experiment_id, parent_id):
        kill_running(client, experiment_id, run.info.run_id)
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, status="KILLED")


def settle_parent(client: Any, parent_id: str) -> str:
    """Set the parent's status from the latest nested run of each step, and return it; a retried step counts once."""
    experiment_id = client.get_run(parent_id).info.experiment_id
    latest: dict[str, str] = {}
    for run in _nested(client, experiment_id, parent_id):
        latest[run.data.tags.get("deepsynth.step", run.info.run_id)] = run.info.status
    for status in ("RUNNING", "FAILED", "KILLED"):
        if status in latest.values():
            break
    else:
        status = "FINISHED"
    if status == "RUNNING":
        client.update_run(parent_id, status=status)
    else:
        client.set_terminated(parent_id, status=status)
    return status


def log_parameters(client: Any, run_id: str, parameters: Mapping[str, Any], longest: int) -> None:
    """Log ``parameters``, each cut at ``longest`` characters; the artifact ``config.json`` has them in full."""
    from mlflow.entities import Param

    entities = [Param(name, without_passwords(str(value))[:longest]) for name, value in parameters.items()]
    for start in range(0, len(entities), _PARAMETERS_PER_BATCH):
        client.log_batch(run_id, params=entities[start : start + _PARAMETERS_PER_BATCH], synchronous=True)
    text = json.dumps(dict(parameters), indent=2, default=str)
    transferred(lambda: client.log_text(run_id, without_passwords(text), "config.json"), "the upload of config.json")


def log_dataset(client: Any, run_id: str | None, digest: str, source: str, context: str) -> None:
    """Log a dataset as the run's input; MLflow's digest column holds 36 characters, a tag has the full digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=Path(source).name or "dataset",
        digest=digest[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source, "digest": digest}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
    client.set_tag(run_id, "deepsynth.dataset_digest", digest)
