"""Where reasons and logs of a run come from, in this order: its pods, MLflow's tags, KFP's log address.

Each source is tried when it is first needed. What cannot be reached is said once.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.shared.errors import UserError
from components.shared.tracking import mlflow_connection, tracking_runs
from components.shared.tracking.mlflow_connection import TRACKING_OFF
from pipelines.cluster.kfp_api import KfpApi
from pipelines.cluster.kubernetes_api import (
    KubernetesApi,
    KubernetesRefusedError,
    KubernetesUnreachableError,
    connect_kubernetes,
)
from pipelines.definition.environment import Environment
from pipelines.following.pod_reports import StepPod, step_pods
from pipelines.following.workflow_nodes import pod_names

_MOST_LOG_LINES = 20000
_SECONDS_UNTIL_ASKED_AGAIN = 60.0


@dataclass(frozen=True)
class TrackedSteps:
    """A training's progress in MLflow."""

    step: int
    total: int | None
    """the planned steps; None if another version trains, which does not log them"""
    loss: float
    moment: float
    """when the loss was logged, in seconds since 1970"""
    resumed_after: int
    """the steps that an earlier attempt had done"""


class RunSources:
    """What can be read of one run besides KFP's list of tasks.

    Args:
        say: prints one line; used once for each source that cannot be reached.
    """

    def __init__(self, api: KfpApi, environment: Environment, run_id: str, say: Callable[[str], None]) -> None:
        self._kfp = api
        self._environment = environment
        self._run_id = run_id
        self._say = say
        self._said: set[str] = set()
        self._kubernetes: KubernetesApi | None = None
        self._kubernetes_tried = False
        self._kubernetes_again_at = self._mlflow_again_at = 0.0

    def pods(self) -> list[dict[str, Any]] | None:
        """Return all pods of the run that still exist; None if Kubernetes cannot be asked."""
        return self._items("pods", labelSelector=f"pipeline/runid={self._run_id}")

    def step_pods(self) -> list[StepPod]:
        """Return the pods of the run's steps; none if Kubernetes cannot be asked."""
        return step_pods(self.pods() or [])

    def events(self, pod: str) -> list[dict[str, Any]]:
        """Return Kubernetes' events of a pod, oldest first."""
        return self._items("events", fieldSelector=f"involvedObject.name={pod}") or []

    def workflow_messages(self) -> list[tuple[str, str, str]]:
        """Return (node's name, phase, message) of the nodes with a message from Argo; the workflow has the name "".

        Quotas, Pod Security and missing accounts keep a pod from being created: only Argo knows of them.
        """
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{self._environment.namespace}/workflows"
        answer = self._get(path, labelSelector=f"pipeline/runid={self._run_id}")
        found = []
        for workflow in (answer or {}).get("items", []):
            status = workflow.get("status", {})
            nodes = [*(status.get("nodes") or {}).values(), {"name": "", **status}]
            found += [(node["name"], node.get("phase", ""), node["message"]) for node in nodes if node.get("message")]
        return found

    def account_is_missing(self, name: str) -> bool:
        """Return whether Kubernetes says that the runs' namespace has no such service account."""
        kubernetes = self._connected()
        if kubernetes is None:
            return False
        try:
            kubernetes.get(f"{kubernetes.in_namespace('serviceaccounts')}/{name}")
        except KubernetesRefusedError as error:
            return error.status == 404
        except KubernetesUnreachableError as error:
            self._unreachable(error)
        return False

    def tracked_error(self, step: str) -> str:
        """Return the tag ``deepsynth.error`` of the step's last MLflow run; empty if there is none."""
        uri = self._tracking_uri()
        if uri is None:
            return ""
        try:
            runs = tracking_runs.runs_of_pipeline(mlflow_connection.connect(uri), self._run_id)
        except mlflow_connection.store_errors() as error:
            self._mlflow_unreachable(uri, error)
            return ""
        tags = [run.data.tags for run in runs if run.data.tags.get("deepsynth.step") == step]
        return " ".join(tags[-1].get("deepsynth.error", "").split()) if tags else ""

    def tracked_steps(self, step: str) -> TrackedSteps | None:
        """Return how far the step's last MLflow run is, by its metric ``loss``; None if it has none."""
        uri = self._tracking_uri()
        if uri is None:
            return None
        try:
            client = mlflow_connection.connect(uri)
            runs = [
                run
                for run in tracking_runs.runs_of_pipeline(client, self._run_id)
                if run.data.tags.get("deepsynth.step") == step
            ]
            losses = client.get_metric_history(runs[-1].info.run_id, "loss") if runs else []
        except mlflow_connection.store_errors() as error:
            self._mlflow_unreachable(uri, error)
            return None
        if not losses:
            return None
        losses = sorted(losses, key=lambda loss: loss.step)
        planned = runs[-1].data.tags.get(tracking_runs.PLANNED_STEPS_TAG, "")
        first, last = losses[0], losses[-1]
        return TrackedSteps(
            last.step, int(planned) if planned.isdigit() else None, last.value, last.timestamp / 1000, first.step - 1
        )

    def log_of_pod(self, pod: str, tail: int | None = None) -> list[str] | None:
        """Return the last lines of a step's container, from Kubernetes; None if it has no log of it."""
        kubernetes = self._connected()
        if kubernetes is None:
            return None
        path = f"{kubernetes.in_namespace('pods')}/{pod}/log"
        try:
            return kubernetes.text(path, container="main", tailLines=str(tail or _MOST_LOG_LINES)).splitlines()
        except KubernetesRefusedError:
            return None
        except KubernetesUnreachableError as error:
            self._unreachable(error)
            return None

    def log_of_node(self, node_id: str) -> list[str] | None:
        """Return the log of a node's pod, from KFP's log address; None if KFP has none.

        KFP 2.17 shows of a JSON line in a log that it reads back from its archive the field ``log`` only.
        """
        for pod in pod_names(node_id):
            try:
                return self._kfp.log(self._run_id, pod).splitlines()
            except UserError:  # another template's name, or no log of this pod is left
                continue
        return None

    def followed_log(self, pod: str) -> Iterator[str] | None:
        """Return the lines of a running container as they come; None if Kubernetes cannot be asked."""
        kubernetes = self._connected()
        if kubernetes is None:
            return None
        return kubernetes.lines(f"{kubernetes.in_namespace('pods')}/{pod}/log", container="main", follow="true")

    def _tracking_uri(self) -> str | None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or self._environment.mlflow_tracking_uri
        if not uri or uri.lower() == TRACKING_OFF or mlflow_connection.missing_store(uri):
            return None
        return uri if time.monotonic() >= self._mlflow_again_at else None

    def _mlflow_unreachable(self, uri: str, error: Exception) -> None:
        self._mlflow_again_at = time.monotonic() + _SECONDS_UNTIL_ASKED_AGAIN
        self._once(f"note: MLflow at {uri} does not answer here ({mlflow_connection.reason(error)[:200]})")

    def _items(self, kind: str, **query: str) -> list[dict[str, Any]] | None:
        kubernetes = self._connected()
        answer = self._get(kubernetes.in_namespace(kind), **query) if kubernetes else None
        return None if answer is None else list(answer.get("items") or [])

    def _get(self, path: str, **query: str) -> dict[str, Any] | None:
        kubernetes = self._connected()
        if kubernetes is None:
            return None
        try:
            return kubernetes.get(path, **query)
        except KubernetesRefusedError as error:
            self._once(f"note: {error}")
            return None
        except KubernetesUnreachableError as error:
            self._unreachable(error)
            return None

    def _connected(self) -> KubernetesApi | None:
        if not self._kubernetes_tried:
            self._kubernetes_tried = True
            try:
                self._kubernetes = connect_kubernetes(self._environment.namespace)
            except KubernetesUnreachableError as error:
                self._unreachable(error)
        return self._kubernetes if time.monotonic() >= self._kubernetes_again_at else None

    def _unreachable(self, error: UserError) -> None:
        self._kubernetes_again_at = time.monotonic() + _SECONDS_UNTIL_ASKED_AGAIN
        self._once(f"note: {error}: reasons and logs come from MLflow and KFP only")

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)
