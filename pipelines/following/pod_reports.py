"""What a step's pod says of itself: which step and attempt it is, what it waits for, and why it ended.

A pod is the JSON that Kubernetes answers with. Its annotation ``workflows.argoproj.io/node-name`` names the step; the
step runs in the container ``main``, below KFP's launcher, which ends with 1 whatever its step's exit code was.
"""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.definition.environment import Environment
from pipelines.following.reason import Reason, deadline, out_of_memory, resources_key, with_known_mend
from pipelines.following.workflow_nodes import step_of_node
from pipelines.task_side.ended_pods import Ending, pod_ending

_NODE_NAME = "workflows.argoproj.io/node-name"
_MAIN = "main"
_IMAGE_REASONS = ("ErrImageNeverPull", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageInspect")
_VOLUME_EVENTS = ("FailedMount", "FailedAttachVolume")


@dataclass(frozen=True)
class StepPod:
    """One attempt of one step."""

    step: str
    attempt: int
    """counts from 1"""
    name: str
    retried: bool
    """the task has KFP's retry policy"""
    raw: dict[str, Any]

    @property
    def phase(self) -> str:
        """Kubernetes' word: Pending, Running, Succeeded, Failed or Unknown."""
        return str(self.raw.get("status", {}).get("phase", "Unknown"))

    def age(self, now: datetime.datetime) -> float:
        """Return the seconds since the pod was created, by this machine's clock."""
        return (now - datetime.datetime.fromisoformat(self.raw["metadata"]["creationTimestamp"])).total_seconds()

    def attempt_of(self, environment: Environment) -> str:
        """Return ``attempt n of m``; without m if the environment does not say it."""
        most = environment.retries.num_retries + 1
        known = f" of {most}" if self.retried and self.attempt <= most else ""
        return f"attempt {self.attempt}{known}"


def step_pods(pods: Iterable[dict[str, Any]]) -> list[StepPod]:
    """Return the pods in which steps run, not those of KFP's drivers, by step and attempt."""
    found = []
    for pod in pods:
        node = pod["metadata"].get("annotations", {}).get(_NODE_NAME, "")
        step = step_of_node(node)
        if step:
            number = re.search(r"\((\d+)\)$", node)
            name = pod["metadata"]["name"]
            attempt = int(number[1]) + 1 if number else 1
            found.append(StepPod(step, attempt, name, "-retry-" in name, pod))
    return sorted(found, key=lambda pod: (pod.step, pod.attempt, pod.name))


def driver_pods(pods: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the failed pods that run no step: KFP's drivers."""
    return [
        pod
        for pod in pods
        if step_of_node(pod["metadata"].get("annotations", {}).get(_NODE_NAME, "")) is None
        and pod.get("status", {}).get("phase") == "Failed"
    ]


def waiting_for(pod: StepPod, events: Iterable[dict[str, Any]], environment: Environment) -> Reason | None:
    """Return what keeps a pod from starting; None if it has started, or nothing is known."""
    status = pod.raw.get("status", {})
    if pod.phase != "Pending":
        return None
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _container_waits(pod, container["name"], waiting)
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _unschedulable(pod, condition.get("message") or condition.get("reason") or "", environment)
    for event in reversed(list(events)):
        if event.get("reason") in _VOLUME_EVENTS:
            return Reason(
                f"a volume cannot be mounted: {event.get('message', '')}",
                "look at it with kubectl describe pvc; ReadWriteOnce volumes serve one node only",
            )
    return None


def failure_of_pod(pod: StepPod, environment: Environment, logged_memory: str = "") -> Reason | None:
    """Return why a pod failed; None if it did not fail, or says nothing.

    ``logged_memory`` is what its log says of its memory.
    """
    if pod.phase not in ("Failed", "Unknown"):
        return None
    ending = pod_ending(pod.raw)
    if ending is None:
        return _message_of_the_step(pod)
    return _in_terms_of_the_environment(pod, ending, environment, logged_memory)


def _in_terms_of_the_environment(pod: StepPod, ending: Ending, environment: Environment, logged_memory: str) -> Reason:
    match ending.cause:
        case "memory":
            return out_of_memory(pod.step, ending.detail or None, logged_memory)
        case "evicted" if "ephemeral-storage" in ending.detail:
            return Reason(str(ending), "use nodes with larger disks, or smaller partitions")
        case "evicted":
            return Reason(
                str(ending), f"raise {resources_key(pod.step)}.memory_request, so that it gets a node with room"
            )
        case "deadline":
            return deadline(pod.step, pod.raw.get("spec", {}).get("activeDeadlineSeconds"), environment)
        case "node":
            node = pod.raw.get("spec", {}).get("nodeName") or "unknown"
            said = f" ({ending.detail})" if ending.detail else ""
            return Reason(f"its node {node} was lost or drained{said}", "KFP tries lost pods again")
        case "killed" | "terminated":
            return Reason(str(ending), "its pod was deleted, or its node was drained")


def _message_of_the_step(pod: StepPod) -> Reason | None:
    for container in pod.raw.get("status", {}).get("containerStatuses", []):
        message = (container.get("state", {}).get("terminated") or {}).get("message")
        if container["name"] == _MAIN and message:
            return with_known_mend(_without_step(message, pod.step))
    return None


def _main_container(pod: StepPod) -> dict[str, Any]:
    return next((one for one in pod.raw.get("spec", {}).get("containers", []) if one["name"] == _MAIN), {})


def _without_step(message: str, step: str) -> str:
    """Return a termination message without the step's name, which the caller puts in front."""
    return " ".join(message.split()).removeprefix(f"{step}: ")


def _container_waits(pod: StepPod, name: str, waiting: dict[str, Any]) -> Reason:
    reason, message = str(waiting.get("reason")), " ".join(str(waiting.get("message") or "").split())
    if reason not in _IMAGE_REASONS:
        return with_known_mend(f"its container {name} cannot be created ({reason}): {message}")
    spec = pod.raw.get("spec", {})
    containers = [*spec.get("initContainers", []), *spec.get("containers", [])]
    image = next((one.get("image") for one in containers if one["name"] == name), "")
    if reason == "ErrImageNeverPull":
        return Reason(
            f"image {image} is not on the node, and image_pull_policy is Never",
            "load it into the nodes with the same tag (kind load docker-image), or correct tag in the environment",
        )
    if re.search(r"401|403|denied|unauthorized", message, re.IGNORECASE):
        mend = "give the nodes credentials: image_pull_secrets in the environment"
    elif re.search(r"not found|manifest unknown|InvalidImageName", f"{message} {reason}"):
        mend = "build and push it (make images, make push-images), or correct registry and tag in the environment"
    else:
        mend = "check that the nodes reach the registry, and registry and tag in the environment"
    return Reason(f"image {image} cannot be pulled ({reason}{f': {message}' if message else ''})", mend)


def _unschedulable(pod: StepPod, message: str, environment: Environment) -> Reason:
    said = " ".join(message.split())
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', said)
    key = resources_key(pod.step)
    if claim:
        mend = (
            f"create the claim {claim[1]} in namespace {environment.namespace}, or correct checkpoints, cache or"
            " volumes in the environment"
        )
    elif "unbound immediate PersistentVolumeClaims" in said:
        mend = f"look at the claims with: kubectl describe pvc --namespace {environment.namespace}"
    elif "Insufficient nvidia.com/gpu" in said or f"Insufficient {environment.gpu.resource}" in said:
        mend = "wait for a free GPU, add nodes, or lower gpu.count in the environment"
    elif found := re.search(r"Insufficient (cpu|memory|ephemeral-storage)", said):
        asked = _main_container(pod).get("resources", {}).get("requests", {}).get(found[1])
        is_ = f" (it is {asked})" if asked else ""
        mend = f"wait, add nodes, or lower {key}.{found[1]}_request{is_} in the environment"
    elif "taint" in said:
        mend = "name the taint in gpu.tolerations in the environment"
    elif "affinity" in said or "selector" in said:
        mend = "correct gpu.node_selector in the environment; volumes may also tie pods to a zone"
    else:
        mend = ""
    return Reason(f"no node takes its pod: {said}", mend)
