"""Why pods of the run ended that could not say it themselves: out of memory, evicted, out of time, killed, node lost.

Read inside a pod, with the service account's token and plain HTTPS: the steps' images lack Kubernetes' client. The
account's Role lets it list pods (``manifests/base/runs/service-account.yaml``).
"""

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import urllib3

logger = logging.getLogger(__name__)

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NODE_NAME = "workflows.argoproj.io/node-name"
_SECONDS_TO_ANSWER = 5.0
_SIGKILL, _SIGTERM = 137, 143
_NODE_LOSSES = ("NodeLost", "NodeShutdown", "Terminated", "Shutdown", "NodeAffinity", "UnexpectedAdmissionError")

Cause = Literal["memory", "evicted", "deadline", "node", "killed", "terminated"]


@dataclass(frozen=True)
class Ending:
    """Why a pod ended, by Kubernetes; ``detail`` is its message, or the memory limit such as 1Gi, and may be empty."""

    cause: Cause
    detail: str = ""

    def __str__(self) -> str:
        if self.cause == "memory":
            return (
                f"out of memory{f' at {self.detail}, its memory_limit' if self.detail else ': the node had none left'}"
            )
        words = {
            "evicted": "evicted from its node",
            "deadline": "out of time",
            "node": "its node was lost or drained",
            "killed": "killed from outside (SIGKILL)",
            "terminated": "terminated from outside (SIGTERM)",
        }
        return f"{words[self.cause]}{f': {self.detail}' if self.detail else ''}"


def pod_ending(pod: dict[str, Any]) -> Ending | None:
    """Return why a failed pod ended, if it is not its step's own error; ``pod`` is Kubernetes' JSON."""
    status = pod.get("status", {})
    reason, message = status.get("reason") or "", " ".join((status.get("message") or "").split())
    if reason == "Evicted":
        return Ending("evicted", message)
    if reason == "DeadlineExceeded":
        return Ending("deadline", message)
    disrupted = [one for one in status.get("conditions", []) if one.get("type") == "DisruptionTarget"]
    if reason in _NODE_LOSSES or disrupted or status.get("phase") == "Unknown":
        return Ending("node", message or " ".join((disrupted[0].get("message") or "").split() if disrupted else []))
    for container in status.get("containerStatuses", []):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return Ending("memory", memory_limit(pod) or "")
        if container["name"] == "main" and not ended.get("message"):
            if ended.get("exitCode") == _SIGKILL:
                return Ending("killed")
            if ended.get("exitCode") == _SIGTERM:
                return Ending("terminated")
    return None


def memory_limit(pod: dict[str, Any]) -> str | None:
    """Return the memory limit of the step's container, as Kubernetes writes it: 1Gi."""
    containers = pod.get("spec", {}).get("containers", [])
    main: dict[str, Any] = next((one for one in containers if one["name"] == "main"), {})
    limit = main.get("resources", {}).get("limits", {}).get("memory")
    return str(limit) if limit else None


def endings_of_run(run_id: str, account: Path = ACCOUNT_FOLDER) -> dict[str, str]:
    """Return step -> why its last pod ended; empty outside of a pod, or if the account may not list pods."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not (account / "token").is_file():
        return {}
    found: dict[str, str] = {}
    for pod in sorted(_pods(f"https://{host}:{port}", run_id, account), key=_created):
        match = re.search(r"\.([\w-]+)\(\d+\)\.executor\(\d+\)$", _node_name(pod))
        if match and pod.get("status", {}).get("phase") in ("Failed", "Unknown"):
            ending = pod_ending(pod)
            found[match[1]] = str(ending) if ending else ""
    return {step: text for step, text in found.items() if text}


def _pods(server: str, run_id: str, account: Path) -> list[dict[str, Any]]:
    namespace = (account / "namespace").read_text(encoding="utf-8").strip()
    http = urllib3.PoolManager(ca_certs=str(account / "ca.crt"), timeout=_SECONDS_TO_ANSWER, retries=False)
    try:
        answer = http.request(
            "GET",
            f"{server}/api/v1/namespaces/{namespace}/pods",
            fields={"labelSelector": f"pipeline/runid={run_id}"},
            headers={"Authorization": f"Bearer {(account / 'token').read_text(encoding='utf-8').strip()}"},
        )
        content = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        logger.warning("the run's pods cannot be read: %s", " ".join(str(error).split())[:300])
        return []
    if answer.status != 200:
        logger.warning("the run's pods cannot be read: %s", content.get("message", answer.status))
        return []
    return list(content.get("items") or [])


def _node_name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("annotations", {}).get(_NODE_NAME, ""))


def _created(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))
