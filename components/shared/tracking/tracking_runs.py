"""The MLflow runs of a pipeline: its experiment, its one parent run, and the parent's status."""

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.errors import without_passwords
from components.shared.programs.step_config import SHARED_SETTINGS
from components.shared.tracking.experiment_view import saved_view
from components.shared.tracking.mlflow_connection import store_file, transferred
from components.shared.tracking.run_description import description
from components.shared.versions import git_commit, tool_version

PIPELINE_RUN_TAG = "kfp.run_id"
PLANNED_STEPS_TAG = "deepsynth.planned_steps"
"""The optimizer steps of a whole training, also if its settings count epochs."""
_OPENS_ON_ITS_RUNS = {"mlflow.experimentKind": "custom_model_development"}
"""Without a kind MLflow's UI opens an experiment on its GenAI page."""
_LONGEST_DIGEST = 36
_PARAMETERS_PER_BATCH = 100


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
    tags = {PIPELINE_RUN_TAG: pipeline_run, "deepsynth.pipeline": "true"} | source_tags()
    created = client.create_run(experiment_id, tags=tags, run_name=_parent_name(pipeline_run)).info.run_id
    oldest = _parents(client, experiment_id, pipeline_run)[0]
    if oldest != created:
        client.delete_run(created)
    return oldest


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


def settle_parent(client: Any, parent_id: str, *, ended: bool) -> str:
    """Set the parent's status from the latest nested run of each step, and return it; a retried step counts once.

    Only a pipeline that has ``ended`` is FINISHED: between two steps, and for ever if it is interrupted there, its
    parent is RUNNING.
    """
    experiment_id = client.get_run(parent_id).info.experiment_id
    latest: dict[str, str] = {}
    for run in _nested(client, experiment_id, parent_id):
        latest[run.data.tags.get("deepsynth.step", run.info.run_id)] = run.info.status
    order = ("RUNNING", "FAILED", "KILLED")
    status = next((one for one in order if one in latest.values()), "FINISHED" if ended else "RUNNING")
    if status == "RUNNING":
        client.update_run(parent_id, status=status)
    else:
        client.set_terminated(parent_id, status=status)
    return status


def nested_name(pipeline_run: str | None, step: str) -> str:
    """Return the name of a step's run: in a list of many runs it says whose step it is."""
    return f"{pipeline_run} · {step}" if pipeline_run else step


def describe_parent(client: Any, parent_id: str) -> None:
    """Write the parent's description from its figures, its tags and its nested runs."""
    parent = client.get_run(parent_id)
    if "deepsynth.decision" in parent.data.tags:  # configure wrote why nothing is trained
        return
    if text := description(parent, _nested(client, parent.info.experiment_id, parent_id)):
        client.set_tag(parent_id, "mlflow.note.content", text)


def log_parameters(client: Any, run_id: str, parameters: Mapping[str, Any], longest: int) -> None:
    """Log ``parameters``, each cut at ``longest`` characters; the artifact ``config.json`` has them in full.

    Folders are only in the artifact: they are temporary, and would differ between any two runs.
    """
    log_missing(client, run_id, {name: value for name, value in parameters.items() if not is_folder(name)}, longest)
    text = json.dumps(dict(parameters), indent=2, default=str)
    transferred(lambda: client.log_text(run_id, without_passwords(text), "config.json"), "the upload of config.json")


def log_settings(client: Any, parent_id: str, step: str, parameters: Mapping[str, Any], longest: int) -> None:
    """Log a step's settings as parameters of the pipeline's run, flat and without folders.

    Those of train, and those that the steps share, keep their Hugging Face or PEFT names; the others get their step's
    name before theirs: ``learning_rate``, ``seed``, ``prepare.augmentation.noise_std``.
    """
    settings = {
        name if step == "train" or name in SHARED_SETTINGS else f"{step}.{name}": value
        for name, value in _flat(parameters).items()
        if not (step == "benchmark" and name.startswith("train"))  # the copy that the benchmark trains with
    }
    log_missing(client, parent_id, settings, longest)


def is_folder(name: str) -> bool:
    """Return whether a setting names a folder of this machine."""
    return name.endswith("_dir")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        elif not is_folder(name):
            found[f"{prefix}{name}"] = value
    return found


def log_missing(client: Any, run_id: str, parameters: Mapping[str, Any], longest: int) -> None:
    """Log the parameters that the run does not have: MLflow rejects the whole batch for one that has another value."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in parameters.items()}  # what MLflow allows
    entities = [
        Param(name, without_passwords(str(value))[:longest]) for name, value in named.items() if name not in known
    ]
    for start in range(0, len(entities), _PARAMETERS_PER_BATCH):
        client.log_batch(run_id, params=entities[start : start + _PARAMETERS_PER_BATCH], synchronous=True)


def log_dataset(client: Any, run_id: str | None, digest: str, source: str, context: str) -> None:
    """Log a dataset as the run's input; MLflow's digest column holds 36 characters, a tag has the full digest.

    A dataset that the run has already stays as it is: the steps of a pipeline read the same one.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = client.get_run(run_id).inputs
    if any(one.dataset.digest == digest[:_LONGEST_DIGEST] for one in inputs.dataset_inputs):
        return
    dataset = Dataset(
        name=Path(source).name or "dataset",
        digest=digest[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source, "digest": digest}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
    client.set_tag(run_id, "deepsynth.dataset_digest", digest)
