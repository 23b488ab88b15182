"""Runs in MLflow: the parent run by its id or by the pipeline run's (tag ``kfp.run_id``), and what its steps logged."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.tracking import mlflow_connection
from components.shared.tracking.tracking_runs import (
    PARENT_TAG,
    PIPELINE_RUN_TAG,
    STEP_TAG,
    cached_runs,
    runs_of_pipeline,
    step_runs,
)
from pipelines.comparison.compared_run import FILES, SAMPLES, ComparedRun, flattened, read_files, read_json
from pipelines.settings.step_sections import FOLDER_FIELDS, SHARED_FIELDS, STEP_CONFIGS

_CONFIG = "config.json"
_BENCHMARK_TRAIN_SECTION = "train"


@contextmanager
def store(uri: str) -> Iterator[Any]:
    """Yield a client of the tracking store.

    Raises:
        UserError: the store is down, refuses, or is switched off.
    """
    if uri.lower() == mlflow_connection.TRACKING_OFF:
        raise UserError("tracking is off, so no run can be looked up", where="MLFLOW_TRACKING_URI")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each small file
    try:
        yield mlflow_connection.connect(uri)
    except mlflow_connection.store_errors() as error:
        said = mlflow_connection.reason(error)
        mend = "start it, or correct MLFLOW_TRACKING_URI"
        raise UserError(f"MLflow cannot be asked for runs ({said})", where=uri, mend=mend) from error


def find_parent(client: Any, run: str) -> Any | None:
    """Return the MLflow run of a whole pipeline run; None if there is none.

    Raises:
        UserError: it failed, was killed, has not finished, or is the run of a single step.
    """
    found = _by_id(client, run) or _by_pipeline_run(client, run)
    if found is None:
        return None
    if STEP_TAG in found.data.tags:
        parent = found.data.tags.get(PARENT_TAG)
        mend = f"name its pipeline's run: {parent}" if parent else "name a pipeline's run"
        raise UserError("it is the run of one step, not of a pipeline", where=run, mend=mend)
    status = found.info.status
    if status == "RUNNING":
        raise UserError("the run has not finished (MLflow says RUNNING)", where=run, mend="wait for it")
    if status != "FINISHED":
        raise UserError(f"the run did not finish well (MLflow says {status})", where=run, mend="name a finished run")
    return found


def read_tracked_run(client: Any, parent: Any, uri: str, folder: Path) -> ComparedRun:
    """Read what the steps of ``parent`` logged; the files are downloaded into ``folder``, which must be empty.

    Raises:
        UserError: a file cannot be read, or has another schema version.
    """
    where = f"MLflow run {parent.info.run_id}"
    own = _steps(client, parent)
    cached = {step: run for step, run in cached_runs(client, parent).items() if step not in own}
    steps = own | cached
    files = {step: _fetched(client, uri, run, step, folder) for step, run in steps.items()}
    wanted = {step: files.get(step, {}).get(name) for step, name in FILES.items()}
    samples = files.get("evaluate", {}).get(SAMPLES)
    missing = [(step, FILES[step]) for step, path in wanted.items() if path is None]
    missing += [] if samples else [("evaluate", SAMPLES)]
    return ComparedRun(
        name=parent.data.tags.get(PIPELINE_RUN_TAG) or parent.info.run_name or parent.info.run_id,
        where=where,
        finished=_time(parent.info.end_time),
        config=_config({step: read_json(one[_CONFIG]) for step, one in files.items() if _CONFIG in one}),
        files=read_files({step: path.parent for step, path in wanted.items() if path}),
        seconds={step: _seconds(run) for step, run in own.items()} | {"total": _seconds(parent)},
        samples=samples,
        notes=[f"{step} was cached by KFP: MLflow run {run.info.run_id} did it" for step, run in cached.items()]
        + [
            f"there is no {name}: {step} {'did not log it' if step in steps else 'has no run (cached, or not tracked)'}"
            for step, name in missing
        ],
    )


def _by_id(client: Any, run: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _by_pipeline_run(client: Any, run: str) -> Any | None:
    parents = [each for each in runs_of_pipeline(client, run) if STEP_TAG not in each.data.tags]
    return max(parents, key=lambda each: each.info.start_time, default=None)


def _steps(client: Any, parent: Any) -> dict[str, Any]:
    """Return each step's last finished run; those of the benchmark's contenders are part of the benchmark."""
    return {
        step: run
        for run in step_runs(client, parent)
        if (step := run.data.tags[STEP_TAG]) in STEP_CONFIGS and run.info.status == "FINISHED"
    }


def _fetched(client: Any, uri: str, run: Any, step: str, folder: Path) -> dict[str, Path]:
    """Download the artifacts of a step that the comparison reads; return name -> path."""
    from mlflow.artifacts import download_artifacts

    logged = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    wanted = {_CONFIG, FILES.get(step), SAMPLES if step == "evaluate" else None} & logged
    place = folder / step
    place.mkdir(parents=True)

    def download() -> None:
        for name in sorted(name for name in wanted if name):
            download_artifacts(run_id=run.info.run_id, artifact_path=name, dst_path=str(place), tracking_uri=uri)

    mlflow_connection.transferred(download, f"the download of {step}'s files")
    return {path.name: path for path in place.iterdir()}


def _config(steps: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the steps' settings in the form of the pipeline's configuration: shared ones once, no folders."""
    shared: dict[str, Any] = {}
    sections: dict[str, Any] = {}
    for step, values in steps.items():
        left_out = {*SHARED_FIELDS, *FOLDER_FIELDS} | ({_BENCHMARK_TRAIN_SECTION} if step == "benchmark" else set())
        sections[step] = {name: value for name, value in values.items() if name not in left_out}
        shared |= {name: values[name] for name in SHARED_FIELDS if name in values}
    return flattened(shared | sections)


def _seconds(run: Any) -> float:
    return (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else 0.0


def _time(milliseconds: int | None) -> str:
    if not milliseconds:
        return "–"
    return f"{datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC):%Y-%m-%d %H:%M}"
