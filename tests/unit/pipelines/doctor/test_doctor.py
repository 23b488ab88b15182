"""`deepsynth doctor` against servers of KFP and Kubernetes and a real MLflow store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.definition.environment import read_environment
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import FakeKfp, kfp_api_server
from tests.fixtures.kubernetes_api_server import FakeKubernetes, kubernetes_api_server
from tests.fixtures.mlflow_server import free_port

ENVIRONMENT = """\
tag: 1-a
namespace: kubeflow
image_pull_policy: Never
mlflow_tracking_uri: 'off'
security_context: {run_as_non_root: true}
gpu: {count: 1}
resources: {gpu: {cpu_request: "2", memory_request: 4Gi}}
checkpoints: {claim: deepsynth-checkpoints, mount_path: /checkpoints}
"""
IMAGES = ("deepsynth-pipelines-python:1-a", "deepsynth-pipelines-python-cuda:1-a")
CLAIM = "/api/v1/namespaces/kubeflow/persistentvolumeclaims/deepsynth-checkpoints"
DEPLOYMENT = "/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline"
NAMESPACE = "/api/v1/namespaces/kubeflow"
NODES = "/api/v1/nodes"


def node(**allocatable: str) -> dict[str, Any]:
    has = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"} | allocatable
    images = [{"names": [f"docker.io/library/{image}"]} for image in IMAGES]
    return {"metadata": {"name": "n1", "labels": {}}, "status": {"allocatable": has, "images": images}}


def deployment(accounts: str) -> dict[str, Any]:
    container = {"name": "api", "env": [{"name": "ALLOWEDSERVICEACCOUNTS", "value": accounts}]}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_api_server() as server:
        server.runs["1"] = {"run_id": "1", "display_name": "first", "state": "SUCCEEDED"}
        yield server


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    found = Shell(tmp_path, monkeypatch, capsys)
    (tmp_path / "environment.yaml").write_text(ENVIRONMENT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return found


@pytest.fixture
def kubernetes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster without faults."""
    with kubernetes_api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(shell.folder / "kubeconfig")))
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        server.objects = {
            NAMESPACE: {"metadata": {"name": "kubeflow", "labels": labels}},
            DEPLOYMENT: deployment("other,deepsynth-pipeline"),
            CLAIM: {"spec": {}, "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}},
            NODES: {"items": [node()]},
        }
        yield server


def doctor(shell: Shell, kfp: FakeKfp) -> Answer:
    return shell("doctor", "--no-pod", "--host", kfp.url, "--environment", "environment.yaml")


def test_a_sound_cluster_has_no_fault(shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes) -> None:
    answer = doctor(shell, kfp)
    lines = answer.out.splitlines()
    assert answer.code == 0, answer.out
    assert lines[-1] == "13 ok, 0 fault, 0 unknown", answer.out
    assert f"ok      KFP: 2.17.0, single-user, at {kfp.url}" in lines
    assert "ok      MLflow's artifacts: a file was put and read back" in lines
    assert "ok      GPUs: a node has 1 nvidia.com/gpu; others may use them now" in lines


FAULTS: dict[str, tuple[Any, str]] = {
    "account": (
        lambda it: it.accounts.clear(),
        "service account: deepsynth-pipeline does not exist in kubeflow; apply",
    ),
    "account's rights": (
        lambda it: it.account_lacks.add(("create", "workflowtaskresults")),
        "service account: deepsynth-pipeline may not create workflowtaskresults; apply the overlay",
    ),
    "own rights": (lambda it: it.refused_reviews.add(("list", "events")), "your rights: you may not list events"),
    "allowed accounts": (
        lambda it: it.objects.update({DEPLOYMENT: deployment("other")}),
        "allowed accounts: ALLOWEDSERVICEACCOUNTS does not name deepsynth-pipeline; kubectl set env --namespace"
        " kubeflow deployment/ml-pipeline ALLOWEDSERVICEACCOUNTS=other,deepsynth-pipeline",
    ),
    "claim": (
        lambda it: it.objects.pop(CLAIM),
        "volume deepsynth-checkpoints: the claim does not exist in kubeflow; apply the overlay",
    ),
    "namespace": (lambda it: it.objects.pop(NAMESPACE), "namespace: kubeflow does not exist; correct namespace"),
    "image": (
        lambda it: it.objects[NODES]["items"][0]["status"].update(images=[]),
        "image deepsynth-pipelines-python:1-a: on no node, and image_pull_policy is Never; load it into the nodes",
    ),
    "GPUs": (
        lambda it: it.objects[NODES].update(items=[node(**{"nvidia.com/gpu": "0"})]),
        "GPUs: no node has 1 nvidia.com/gpu allocatable; install the device plugin",
    ),
    "room": (
        lambda it: it.objects[NODES].update(items=[node(cpu="1500m")]),
        "room for resources.gpu: no node has 2 cpu and 4Gi memory in all; lower resources.gpu.cpu_request",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_mend(name: str, shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes) -> None:
    spoil, said = FAULTS[name]
    spoil(kubernetes)
    answer = doctor(shell, kfp)
    faults = [line for line in answer.out.splitlines() if line.startswith("fault ")]
    assert answer.code == 1 and any(line.startswith(f"fault   {said}") for line in faults), answer.out
    assert len(faults) == (2 if name == "image" else 1), "both images are gone with the node's list"


def test_pods_that_pod_security_would_refuse_are_a_fault(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes
) -> None:
    text = ENVIRONMENT.replace(
        "security_context: {run_as_non_root: true}", "security_context: {run_as_non_root: false}"
    )
    (shell.folder / "environment.yaml").write_text(text)
    assert not read_environment(shell.folder / "environment.yaml").security_context.run_as_non_root
    answer = doctor(shell, kfp)
    assert "fault   Pod Security: kubeflow enforces restricted; set security_context.run_as_non_root" in answer.out


def test_what_cannot_be_reached_is_unknown_and_no_fault(
    shell: Shell, kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    kfp.runs.clear()
    kfp.version = "2.16.1"
    answer = doctor(shell, kfp)
    assert answer.code == 0 and answer.out.splitlines()[-1] == "0 ok, 0 fault, 4 unknown", answer.out
    assert "unknown KFP: release 2.16.1, single-user; tried here: 2.17.0" in answer.out
    assert "unknown Kubernetes: Kubernetes: no credentials" in answer.out and "set KUBECONFIG" in answer.out
    assert "kubectl port-forward -n deepsynth svc/mlflow" in answer.out


def test_what_the_account_may_not_see_is_unknown(shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes) -> None:
    kubernetes.denied = {"persistentvolumeclaims"}
    answer = doctor(shell, kfp)
    assert answer.code == 0
    assert 'persistentvolumeclaims is forbidden: User "me"' in answer.out


def test_no_kfp_is_a_fault(shell: Shell, kubernetes: FakeKubernetes) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    answer = shell("doctor", "--no-pod", "--host", host, "--environment", "environment.yaml")
    assert (
        answer.code == 1 and "fault   KFP: --host http://127.0.0.1" in answer.out and "cannot be reached" in answer.out
    )
