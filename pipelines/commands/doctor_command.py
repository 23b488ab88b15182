"""``deepsynth doctor``: look at a cluster before the first run."""

from itertools import chain
from typing import Annotated

import typer

from pipelines.commands.cluster_options import EnvironmentFile, Host, cluster_environment
from pipelines.commands.submit_command import printable

EXIT_CODE_FAULTS = 1


def doctor(
    environment: EnvironmentFile = None,
    host: Host = None,
    pod: Annotated[bool, typer.Option(help="Start a Job like a step's pod, and remove it afterwards.")] = True,
) -> None:
    """Check a cluster for what a run needs: KFP, the account and its rights, volumes, images, GPUs, MLflow.

    Kubernetes is asked with your kubeconfig (KUBECONFIG), MLflow at MLFLOW_TRACKING_URI or the environment's address.
    A Job with the steps' image, account, user and volumes checks from inside: may it write, does it reach MLflow,
    its artifacts and KFP's bucket? It is removed afterwards; --no-pod leaves it out. In MLflow the checks make the
    experiment deepsynth-doctor, with runs that they delete again.

    Exit codes: 0: no fault; 1: a fault. What this machine cannot check is marked unknown.

    **Example**: `deepsynth doctor --environment production.yaml`
    """
    from pipelines.doctor.cluster_checks import cluster_findings
    from pipelines.doctor.kfp_checks import kfp_findings
    from pipelines.doctor.mlflow_checks import mlflow_findings
    from pipelines.doctor.pod_checks import pod_findings

    settings = cluster_environment(environment)
    states = []
    checks = [kfp_findings(host, settings), cluster_findings(settings), mlflow_findings(settings)]
    if pod:
        checks.append(pod_findings(settings))
    for finding in chain.from_iterable(checks):
        states.append(finding.state)
        print(printable(str(finding)), flush=True)
    print(", ".join(f"{states.count(state)} {state}" for state in ("ok", "fault", "unknown")))
    if "fault" in states:
        raise typer.Exit(EXIT_CODE_FAULTS)
