"""``deepsynth doctor``: look at a cluster before the first run."""

from itertools import chain

import typer

from pipelines.commands.cluster_options import EnvironmentFile, Host, cluster_environment
from pipelines.commands.submit_command import printable

EXIT_CODE_FAULTS = 1


def doctor(environment: EnvironmentFile = None, host: Host = None) -> None:
    """Check a cluster for what a run needs: KFP, the account and its rights, volumes, images, GPUs, MLflow.

    Kubernetes is asked with your kubeconfig (KUBECONFIG), MLflow at MLFLOW_TRACKING_URI or the environment's address.
    It starts nothing. In MLflow it makes the experiment deepsynth-doctor, and a run that it deletes again.

    Exit codes: 0: no fault; 1: a fault. What this machine cannot check is marked unknown.

    **Example**: `deepsynth doctor --environment production.yaml`
    """
    from pipelines.doctor.cluster_checks import cluster_findings
    from pipelines.doctor.kfp_checks import kfp_findings
    from pipelines.doctor.mlflow_checks import mlflow_findings

    settings = cluster_environment(environment)
    states = []
    for finding in chain(kfp_findings(host, settings), cluster_findings(settings), mlflow_findings(settings)):
        states.append(finding.state)
        print(printable(str(finding)), flush=True)
    print(", ".join(f"{states.count(state)} {state}" for state in ("ok", "fault", "unknown")))
    if "fault" in states:
        raise typer.Exit(EXIT_CODE_FAULTS)
