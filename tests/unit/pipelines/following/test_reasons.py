"""Reasons that the recorded runs lack: what Kubernetes, Argo and MLflow report for other failures and waits."""

import datetime
from typing import Any

import pytest
import yaml

from pipelines.cluster.pipeline_package import write_package
from pipelines.definition.environment import Environment
from pipelines.definition.task_titles import TASK_KINDS, TASK_TITLES
from pipelines.following.pod_reports import failure_of_pod, step_pods, waiting_for
from pipelines.following.reason import with_known_mend

ENVIRONMENT = Environment.model_validate(
    {"tag": "1-a", "namespace": "runs", "resources": {"gpu": {"timeout_seconds": 3600, "memory_limit": "8Gi"}}}
)


def pod(status: dict[str, Any], step: str = "train", **spec: Any) -> Any:
    node = f"deepsynth-finetune-x(0).root(0).{step}(0).executor(0)"
    containers = [{"name": "main", "image": "registry.example/step:1", "resources": {"limits": {"memory": "8Gi"}}}]
    metadata = {
        "name": "deepsynth-finetune-x-retry-system-container-impl-1",
        "annotations": {"workflows.argoproj.io/node-name": node},
        "creationTimestamp": "2026-11-29T01:00:00Z",
    }
    (found,) = step_pods(
        [{"metadata": metadata, "spec": {"containers": containers, "nodeName": "n1"} | spec, "status": status}]
    )
    return found


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, **more}}
    return {"phase": "Failed", "containerStatuses": [{"name": "main", "state": state}]}


@pytest.mark.parametrize(
    ("status", "spec", "reason"),
    [
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            {},
            "evicted from its node: The node was low on resource: memory.; raise resources.gpu.memory_request",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
            {},
            "use nodes with larger disks",
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded"},
            {"activeDeadlineSeconds": 3600},
            "out of time after 3600 s; raise resources.gpu.timeout_seconds",
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded"},
            {"activeDeadlineSeconds": 7117},
            "the run's deadline ended it; raise limits.active_deadline_seconds",
        ),
        ({"phase": "Unknown", "reason": "NodeLost"}, {}, "its node n1 was lost or drained"),
        (
            {
                "phase": "Failed",
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "message": "Taint manager: deleting due to NoExecute taint",
                    }
                ],
            },
            {},
            "its node n1 was lost or drained (Taint manager: deleting due to NoExecute taint)",
        ),
        (ended(137, "OOMKilled"), {}, "out of memory at 8Gi: raise resources.gpu.memory_limit"),
        (ended(137), {}, "killed from outside (SIGKILL)"),
        (ended(143), {}, "terminated from outside (SIGTERM)"),
        (
            ended(1, message="train: learning_rate: the loss became nan; lower it"),
            {},
            "learning_rate: the loss became nan",
        ),
    ],
)
def test_a_failed_pod_tells_why(status: dict[str, Any], spec: dict[str, Any], reason: str) -> None:
    assert str(failure_of_pod(pod(status, **spec), ENVIRONMENT)).startswith(reason) or reason in str(
        failure_of_pod(pod(status, **spec), ENVIRONMENT)
    )


def waits(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "state": state}]}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (waits("ImagePullBackOff", "manifest unknown"), ["image registry.example/step:1", "make push-images"]),
        (waits("ErrImagePull", "401 Unauthorized"), ["image registry.example/step:1", "image_pull_secrets"]),
        (waits("ErrImagePull", "dial tcp: i/o timeout"), ["check that the nodes reach the registry"]),
        (waits("CreateContainerConfigError", 'secret "hub" not found'), ['secret "hub" not found']),
        (unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), ["wait for a free GPU", "gpu.count"]),
        (unscheduled("1 node(s) had untolerated taint {nvidia.com/gpu: present}"), ["gpu.tolerations"]),
        (unscheduled("3 node(s) didn't match Pod's node affinity/selector."), ["gpu.node_selector"]),
        (unscheduled("pod has unbound immediate PersistentVolumeClaims."), ["kubectl describe pvc --namespace runs"]),
        (unscheduled("3 Insufficient memory."), ["resources.gpu.memory_request"]),
    ],
)
def test_a_waiting_pod_tells_what_for(status: dict[str, Any], parts: list[str]) -> None:
    found = str(waiting_for(pod(status), [], ENVIRONMENT))
    assert [part for part in parts if part not in found] == [], found


def test_a_volume_that_cannot_be_mounted_is_told_by_the_events() -> None:
    creating = waits("ContainerCreating")
    events = [{"reason": "FailedMount", "message": 'MountVolume.SetUp failed for volume "pvc-1"'}]
    assert 'MountVolume.SetUp failed for volume "pvc-1"' in str(waiting_for(pod(creating), events, ENVIRONMENT))
    assert waiting_for(pod(creating), [], ENVIRONMENT) is None


@pytest.mark.parametrize(
    ("message", "mend"),
    [
        (
            'pods "x" is forbidden: exceeded quota: deepsynth-runs, requested: requests.nvidia.com/gpu=1',
            "raise the quota",
        ),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot', "run_as_non_root: true"),
        ('pods "x" is forbidden: error looking up service account kubeflow/a: serviceaccount "a" not found', "overlay"),
        ("NoSuchBucket: The specified bucket does not exist", "create the bucket"),
    ],
)
def test_known_texts_get_a_mend(message: str, mend: str) -> None:
    assert mend in with_known_mend(message).mend


def test_the_age_of_a_pod_counts_from_its_creation() -> None:
    now = datetime.datetime(2026, 11, 29, 1, 0, 45, tzinfo=datetime.UTC)
    assert pod({"phase": "Pending"}).age(now) == 45


def test_the_kinds_of_tasks_are_those_of_the_compiled_pipeline(tmp_path: Any) -> None:
    limits = {"control": "1Gi", "prepare": "2Gi", "gpu": "3Gi", "export": "4Gi"}
    resources = {kind: {"memory_limit": limit} for kind, limit in limits.items()}
    environment = Environment.model_validate({"tag": "1-a", "resources": resources})
    found = {}
    for partitions in (1, 2):
        write_package(tmp_path / "p.yaml", environment, partitions)
        spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
        for name, executor in spec["deploymentSpec"]["executors"].items():
            limit = executor["container"]["resources"]["resourceMemoryLimit"]
            found[name.removeprefix("exec-")] = next(kind for kind, value in limits.items() if value == limit)
    assert found == TASK_KINDS and set(TASK_KINDS) == set(TASK_TITLES)
