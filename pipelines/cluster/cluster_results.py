"""The result table of a cluster run, read from MLflow: the evaluation's report and the gate's verdict."""

import os
from typing import Any

from rich.console import Console

from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.errors import UserError, without_passwords
from components.shared.tracking import mlflow_connection, tracking_runs
from components.shared.tracking.artifact_transfer import direct_access
from components.shared.tracking.mlflow_connection import TRACKING_OFF
from components.shared.tracking.run_description import REASON_TAG
from pipelines.definition.environment import Environment
from pipelines.local.run_summary import models_table


def print_results(run_id: str, environment: Environment, console: Console) -> None:
    """Print the result table of the KFP run ``run_id``, or one line that says why this machine cannot show it.

    MLflow's address is ``MLFLOW_TRACKING_URI``, e.g. a forwarded port; if that is not set, the environment's.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or environment.mlflow_tracking_uri
    if not uri or uri.lower() == TRACKING_OFF:
        _say(console, "no table: the environment names no MLflow server (mlflow_tracking_uri)")
        return
    if environment.mlflow_direct_artifacts:
        for name, value in direct_access(True).items():
            os.environ.setdefault(name, value)
    try:
        rows, tags = _results(mlflow_connection.connect(uri), run_id)
    except mlflow_connection.store_errors() as error:
        reason = mlflow_connection.reason(error)
        _say(console, f"no table: MLflow at {without_passwords(uri)} does not answer here ({reason})")
        _say(console, "reach it, e.g. with: kubectl port-forward -n deepsynth svc/mlflow 5000:5000")
        _say(console, "and set MLFLOW_TRACKING_URI=http://127.0.0.1:5000; the run's page has the report too")
        return
    except UserError as error:
        _say(console, f"no table: {error}")
        return
    if rows:
        console.print(models_table(rows))
    elif tags.get(tracking_runs.DECISION_TAG) == "unchanged":
        _say(console, tags.get(REASON_TAG, "nothing was trained: the data is unchanged"))
    else:
        place = without_passwords(uri)
        _say(console, f"no table: MLflow at {place} has no evaluation of this run (cached by KFP, or not reached)")
    if "gate" in tags:
        _say(console, f"{tags['gate'] + ':':<14}{tags.get('gate.reason', '')}")


def _results(client: Any, run_id: str) -> tuple[list[ReportRow], dict[str, str]]:
    """Return the report's rows, and the tags of the parent run and the gate's run.

    The report of an evaluation that KFP's cache answered is that of the run that the parent names.
    """
    tags: dict[str, str] = {}
    evaluation = None
    for run in tracking_runs.runs_of_pipeline(client, run_id):
        step = run.data.tags.get("deepsynth.step")
        if step in (None, "gate"):
            tags |= run.data.tags
        elif step == "evaluate":
            evaluation = run.info.run_id
    evaluation = evaluation or tags.get(f"{tracking_runs.CACHED_TAG}evaluate")
    if evaluation is None or all(entry.path != EvaluationReport.FILE for entry in client.list_artifacts(evaluation)):
        return [], tags
    with scratch_folder("deepsynth-results") as folder:
        name = EvaluationReport.FILE
        mlflow_connection.transferred(
            lambda: client.download_artifacts(evaluation, name, str(folder)), f"the download of {name}"
        )
        return EvaluationReport.read(folder).rows, tags


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
