"""The Job of `deepsynth doctor`: its program runs for real, against a real MLflow server and a real S3 store."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from pipelines.doctor import pod_checks
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import kfp_api_server
from tests.fixtures.kubernetes_api_server import FakeKubernetes, kubernetes_api_server
from tests.fixtures.mlflow_server import free_port, mlflow_server
from tests.fixtures.rendered_manifests import copy_of_manifests, rendered
from tests.fixtures.tracking_stack import S3_KEYS, seaweedfs

CONFIG_MAP = "/api/v1/namespaces/kubeflow/configmaps/kfp-launcher"
JOBS = "/apis/batch/v1/namespaces/kubeflow/jobs"
IMAGE = "deepsynth-pipelines-python:1-a"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(pod_checks, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(pod_checks, "SECONDS_TO_END", 3600.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture
def kubernetes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    with kubernetes_api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(shell.folder / "kubeconfig")))
        # No Secret holds the keys of this root, so that only the tests of buckets ask for one.
        server.objects = {CONFIG_MAP: {"data": {"defaultPipelineRoot": "gs://bucket/root"}}}
        yield server


def doctor(shell: Shell, *options: str, **settings: object) -> Answer:
    environment = {
        "tag": "1-a",
        "namespace": "kubeflow",
        "image_pull_policy": "Never",
        "mlflow_tracking_uri": "off",
        "security_context": {"run_as_non_root": True},
        "gpu": {"count": 0},
        "resources": {"control": {"cpu_request": "100m", "memory_limit": "1Gi"}},
    }
    (shell.folder / "environment.yaml").write_text(yaml.safe_dump(environment | settings))
    with kfp_api_server() as kfp:
        return shell("doctor", "--host", kfp.url, "--environment", "environment.yaml", *options)


def test_a_pod_as_strict_as_a_step_writes_its_volumes_and_uses_mlflow(
    shell: Shell, kubernetes: FakeKubernetes, tmp_path: Path
) -> None:
    for folder in ("server", "checkpoints"):
        (tmp_path / folder).mkdir()
    with mlflow_server(tmp_path / "server") as (address, _):
        answer = doctor(
            shell,
            mlflow_tracking_uri=address,
            checkpoints={"claim": "kept", "mount_path": str(tmp_path / "checkpoints")},
            cache={"claim": "gone", "mount_path": str(tmp_path / "missing")},
            secrets=[{"name": "hub", "keys": {"HF_TOKEN": "HF_TOKEN"}, "optional": True}],
        )
    assert f"ok      a pod with {IMAGE}: was started in kubeflow\n" in answer.out
    assert f"ok      volume kept from a pod: {tmp_path / 'checkpoints'} can be written\n" in answer.out
    assert f"fault   volume gone from a pod: {tmp_path / 'missing'} cannot be written (No such file" in answer.out
    assert f"ok      MLflow from a pod: {address} answers here\n" in answer.out
    assert "ok      MLflow's artifacts from a pod: a file was put and read back\n" in answer.out
    assert answer.code == 1
    assert not kubernetes.jobs, "the Job was not removed"
    assert list((tmp_path / "checkpoints").iterdir()) == []

    (job,) = kubernetes.started_jobs
    template = job["spec"]["template"]
    assert "pipeline/runid" in template["metadata"]["labels"], "MLflow's network policy admits pods with this label"
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert spec["serviceAccountName"] == "deepsynth-pipeline" and spec["restartPolicy"] == "Never"
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]] == ["kept", "gone"]
    assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Never")
    assert container["resources"] == {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    identity = {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True}
    assert container["securityContext"].items() >= identity.items()
    assert container["env"][-1]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "HF_TOKEN", "optional": True}


def test_an_mlflow_that_pods_cannot_reach_is_a_fault(
    shell: Shell, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    answer = doctor(shell, mlflow_tracking_uri=address, env={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert f"fault   MLflow from a pod: {address}: does not answer here" in answer.out
    assert "network policy" in answer.out and answer.code == 1


PROVIDERS = """\
minio:
  default:
    endpoint: {endpoint}
    disableSSL: true
    region: us-east-1
    credentials:
      secretRef: {{secretName: mlpipeline-minio-artifact, accessKeyKey: accesskey, secretKeyKey: secretkey}}
"""


@pytest.mark.slow
def test_a_file_is_put_into_kfps_bucket_and_read_back(shell: Shell, kubernetes: FakeKubernetes, tmp_path: Path) -> None:
    objects = rendered(copy_of_manifests(tmp_path / "kustomize") / "overlays" / "local")
    with seaweedfs(objects, tmp_path / "s3") as address:
        own = dict(zip(("aws_access_key_id", "aws_secret_access_key"), S3_KEYS, strict=True))
        store = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **own)
        store.create_bucket(Bucket="mlpipeline")
        endpoint = address.removeprefix("http://")
        settings = {"providers": PROVIDERS.format(endpoint=endpoint)}
        kubernetes.objects[CONFIG_MAP] = {"data": settings}
        kubernetes.secrets["mlpipeline-minio-artifact"] = dict(zip(("accesskey", "secretkey"), S3_KEYS, strict=True))
        answer = doctor(shell)
        assert (
            f"ok      KFP's bucket from a pod: mlpipeline at {endpoint}: a file was put and read back\n" in answer.out
        )
        assert "Contents" not in store.list_objects_v2(Bucket="mlpipeline"), "the file is still there"

        settings["defaultPipelineRoot"] = "minio://other/v2"
        assert f"fault   KFP's bucket from a pod: other at {endpoint} does not exist; create it" in doctor(shell).out

        del settings["defaultPipelineRoot"]
        kubernetes.secrets["mlpipeline-minio-artifact"]["secretkey"] = "wrong"
        refused = doctor(shell).out
        assert (
            f"fault   KFP's bucket from a pod: mlpipeline at {endpoint}: " in refused
            and "ConfigMap kfp-launcher" in refused
        )


def test_a_bucket_that_pods_cannot_reach_is_a_fault(shell: Shell, kubernetes: FakeKubernetes) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    kubernetes.objects[CONFIG_MAP] = {"data": {"providers": PROVIDERS.format(endpoint=endpoint)}}
    kubernetes.secrets["mlpipeline-minio-artifact"] = {"accesskey": "a", "secretkey": "b"}
    assert f"fault   KFP's bucket from a pod: mlpipeline at {endpoint}: " in doctor(shell).out


WAITS = {
    "image": (
        {
            "phase": "Pending",
            "containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}],
        },
        f"image {IMAGE} is not on the node, and image_pull_policy is Never; load it into the nodes",
    ),
    "room": (
        {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient cpu."}],
        },
        "no node takes its pod: 0/1 nodes: 1 Insufficient cpu.; wait, add nodes, or lower resources.control.cpu",
    ),
    "memory": (
        {
            "phase": "Failed",
            "containerStatuses": [{"name": "main", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}],
        },
        "out of memory at 1Gi: raise resources.control.memory_limit",
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_pod_that_does_not_start_or_is_killed_is_a_fault_with_its_mend(
    name: str, shell: Shell, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_checks, "SECONDS_BEFORE_A_WAIT_COUNTS", 0.0)
    kubernetes.kept_back, said = WAITS[name]
    kubernetes.logs["deepsynth-doctor-0-pod"] = ""
    answer = doctor(shell)
    assert f"fault   a pod with {IMAGE}: {said}" in answer.out
    assert not kubernetes.jobs


def test_a_pod_that_may_not_be_created_is_a_fault(
    shell: Shell, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_checks, "SECONDS_BEFORE_A_WAIT_COUNTS", 0.0)
    kubernetes.quota = "pods is forbidden: exceeded quota: pods"
    answer = doctor(shell)
    assert f"fault   a pod with {IMAGE}: is refused: pods is forbidden: exceeded quota: pods\n" in answer.out
    assert not kubernetes.jobs


def test_without_the_right_to_create_jobs_the_pod_is_unknown(shell: Shell, kubernetes: FakeKubernetes) -> None:
    kubernetes.denied = {"jobs"}
    answer = doctor(shell)
    assert "unknown a step's pod:" in answer.out and "or --no-pod" in answer.out


def test_no_pod_starts_nothing(shell: Shell, kubernetes: FakeKubernetes) -> None:
    doctor(shell, "--no-pod")
    assert not kubernetes.started_jobs and JOBS not in kubernetes.asked


def test_the_program_needs_only_what_the_steps_images_have() -> None:
    check = "import sys, pipelines.doctor.in_pod; print({'kubernetes', 'kfp', 'typer'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert answer.stdout == "set()\n", answer.stderr
