"""Steps that KFP's cache answered: their parent run gets the figures, and the link, of the run that did the work.

A cached step starts no process. So a later step of the same pipeline run calls ``note_cached_step`` with the MLflow run
that its input's metadata names, and the closing task calls ``note_cached_benchmark``: no step reads the benchmark.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from components.shared.tracking import logged_values, mlflow_connection, tracking_runs
from components.shared.tracking.headline import READERS
from components.shared.tracking.pipeline_run import parent_of_pipeline, store_action
from components.shared.tracking.tracking_runs import CACHED_TAG, PIPELINE_RUN_TAG, STEP_TAG
from components.shared.versions import tool_version

logger = logging.getLogger(__name__)

BENCHMARK_INPUTS_TAG = "deepsynth.benchmark_inputs"
"""On a parent: the digest of what decides the benchmark's result, besides the dataset."""
_FIGURES = {
    "train": ("train_",),
    "evaluate": tuple(f"{reader}_" for reader in READERS),
    "benchmark": ("benchmark_",),
}
"""A step -> how the names of its figures on the parent begin."""
_OTHER_STEPS = ("prepare.", "evaluate.", "benchmark.", "gate.", "export.")


def note_cached_step(step: str, run_id: str | None, figures: Mapping[str, float] | None = None) -> None:
    """Note on the parent that the run ``run_id`` of an earlier pipeline run did this one's ``step``.

    Nothing happens if the run is of this pipeline run, or if nothing is tracked.

    Args:
        run_id: None if the step's output does not name its run, for example because MLflow was down.
        figures: the step's figures for the parent, from its files; None: those of the earlier run's parent.
    """
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if pipeline_run:
        store_action(
            lambda client, uri: _note(client, uri, pipeline_run, step, run_id, figures),
            f"the cached step {step} was not noted",
        )


def benchmark_inputs(settings: str, base_digest: str) -> str:
    """Return the digest of what decides the benchmark's result, besides the dataset."""
    text = json.dumps([tool_version(), base_digest, settings])
    return hashlib.sha256(text.encode()).hexdigest()


def note_cached_benchmark() -> None:
    """Note which earlier run did this pipeline run's benchmark, if the run reached its end and has none of its own.

    It is the last finished benchmark of the same dataset, settings, base and version: what KFP's cache compares too.
    """
    pipeline_run = os.environ.get("KFP_RUN_ID")
    if pipeline_run and not mlflow_connection.missing_store(mlflow_connection.store_uri()):
        store_action(lambda client, uri: _note_benchmark(client, uri, pipeline_run), "a cached benchmark was not noted")


def _note_benchmark(client: Any, uri: str, pipeline_run: str) -> None:
    parent_id = parent_of_pipeline(client, uri)
    parent = client.get_run(parent_id)
    tags = parent.data.tags
    inputs, digest = tags.get(BENCHMARK_INPUTS_TAG), tags.get(logged_values.DATASET_TAG)
    if not tracking_runs.reached_its_end(client, parent):
        return
    if not inputs or not digest or f"{CACHED_TAG}benchmark" in tags or _own(client, pipeline_run, "benchmark"):
        return
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.`{STEP_TAG}` = 'benchmark' and tags.`{logged_values.DATASET_TAG}` = '{digest}'"
        " and attributes.status = 'FINISHED'",
    )
    for run in sorted(found, key=lambda one: -one.info.start_time):
        earlier = tracking_runs.top_parent(client, run)
        if earlier and earlier.data.tags.get(BENCHMARK_INPUTS_TAG) == inputs:
            _adopt(client, parent_id, "benchmark", run, None)
            return


def _note(
    client: Any, uri: str, pipeline_run: str, step: str, run_id: str | None, figures: Mapping[str, float] | None
) -> None:
    run = tracking_runs.run_or_none(client, run_id) if run_id else None
    if run and run.data.tags.get(PIPELINE_RUN_TAG) == pipeline_run:
        return
    if run is None and (figures is None or _own(client, pipeline_run, step)):
        return
    _adopt(client, parent_of_pipeline(client, uri), step, run, figures)


def _adopt(client: Any, parent_id: str, step: str, run: Any | None, figures: Mapping[str, float] | None) -> None:
    """Copy a step's figures, settings and dataset to the parent, and tag it with the run that did the work."""
    from mlflow.entities import RunTag

    earlier = tracking_runs.top_parent(client, run) if run else None
    if figures is None:
        starts = _FIGURES.get(step, ())
        known = earlier.data.metrics if earlier else {}
        figures = {name: value for name, value in known.items() if starts and name.startswith(starts)}
    tags = [RunTag(f"{CACHED_TAG}{step}", run.info.run_id)] if run else []
    client.log_batch(parent_id, metrics=logged_values.metrics_now(figures), tags=tags, synchronous=True)
    if earlier:
        params = {name: value for name, value in earlier.data.params.items() if _is_of(step, name)}
        logged_values.log_missing(client, parent_id, params)
    if run:
        logged_values.take_over_dataset(client, parent_id, run)
    tracking_runs.describe_parent(client, parent_id)
    logger.info("%s was answered by KFP's cache; the MLflow run %s did it", step, run.info.run_id if run else "?")


def _own(client: Any, pipeline_run: str, step: str) -> bool:
    runs = tracking_runs.runs_of_pipeline(client, pipeline_run)
    return any(run.data.tags.get(STEP_TAG) == step for run in runs)


def _is_of(step: str, parameter: str) -> bool:
    if step == "train":  # its settings, and those that all steps share, have no step's name before theirs
        return not parameter.startswith(_OTHER_STEPS)
    return parameter.startswith(f"{step}.")
