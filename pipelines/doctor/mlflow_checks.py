"""MLflow as the process that asks reaches it: the server, and a file put into its artifact store and read back."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.shared.artifacts.output_folder import scratch_folder
from components.shared.tracking import mlflow_connection, tracking_runs
from components.shared.tracking.mlflow_connection import TRACKING_OFF
from pipelines.definition.environment import Environment
from pipelines.doctor.finding import Finding

EXPERIMENT = "deepsynth-doctor"
_FILE = "doctor.txt"
_CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of MLflow's; the steps' are in the Secret "
    "that the environment's file names (docs/cluster.md)"
)


def mlflow_findings(environment: Environment) -> Iterator[Finding]:
    """Yield what MLflow says to this machine."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or environment.mlflow_tracking_uri
    if not uri or uri.lower() == TRACKING_OFF:
        yield Finding("unknown", "MLflow", "the environment names no server (mlflow_tracking_uri)")
        return
    mend = "kubectl port-forward -n deepsynth svc/mlflow 5000:5000, and MLFLOW_TRACKING_URI=http://127.0.0.1:5000"

    def unreachable(reason: str) -> Finding:
        return Finding("unknown", "MLflow", f"{uri} {reason}; pods may reach it all the same", mend)

    yield from server_findings(uri, unreachable)


def server_findings(uri: str, unreachable: Callable[[str], Finding]) -> Iterator[Finding]:
    """Yield what the server at ``uri`` says; the run of this check is deleted again.

    ``unreachable`` makes the finding of a server that does not answer, from the reason in words.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client = mlflow_connection.connect(uri)
        experiment = tracking_runs.experiment(client, uri, EXPERIMENT)
    except mlflow_connection.store_errors() as error:
        reason = mlflow_connection.reason(error)[:200]
        if mlflow_connection.refuses_credentials(error):
            yield Finding("fault", "MLflow", f"{uri}: {reason}", _CREDENTIALS)
        else:
            yield unreachable(f"does not answer here ({reason})")
        return
    yield Finding("ok", "MLflow", f"{uri} answers here")
    yield _artifacts(client, experiment)


def _artifacts(client: Any, experiment: str) -> Finding:
    run = client.create_run(experiment, run_name="artifacts").info.run_id
    try:
        client.log_text(run, run, _FILE)
        with scratch_folder("deepsynth-doctor") as folder:
            read = Path(client.download_artifacts(run, _FILE, str(folder))).read_text(encoding="utf-8")
    except mlflow_connection.store_errors() as error:
        mend = "look at the log of MLflow's Deployment, and at the bucket and key of its artifact store"
        return Finding("fault", "MLflow's artifacts", mlflow_connection.reason(error)[:200], mend)
    finally:
        tracking_runs.withdraw(client, run)
    if read != run:
        return Finding("fault", "MLflow's artifacts", "a file came back with other content")
    return Finding("ok", "MLflow's artifacts", "a file was put and read back")
