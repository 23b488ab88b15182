"""The closing task, as in a pod, reads from the run's pods why a step ended without a report, and tells MLflow."""

import datetime
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow.tracking import MlflowClient

from pipelines.task_side import ended_pods
from pipelines.task_side.closing_task import close_run
from tests.fixtures.kubernetes_api_server import FakeKubernetes, kubernetes_api_server

RECORDS = Path(__file__).parents[3] / "fixtures" / "cluster_records"


def certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """The API server as a pod of namespace kubeflow finds it."""
    pem = certificate(tmp_path)
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text("secret")
    (account / "namespace").write_text("kubeflow\n")
    (account / "ca.crt").write_bytes(pem.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    with kubernetes_api_server(pem) as server:
        host, _, port = server.url.removeprefix("https://").partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        monkeypatch.setattr(ended_pods.endings_of_run, "__defaults__", (account,))
        yield server


def tracked_step(uri: str, run: str, **tags: str) -> str:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("deepsynth-finetune")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("deepsynth-finetune")
    parent = client.create_run(experiment_id, tags={"kfp.run_id": run}).info.run_id
    nested = {"kfp.run_id": run, "mlflow.parentRunId": parent, "deepsynth.step": "train"} | tags
    return str(client.create_run(experiment_id, tags=nested).info.run_id)


@pytest.mark.parametrize(
    ("record", "tags", "error"),
    [
        ("train-out-of-memory", {}, "out of memory at 1Gi, its memory_limit"),
        ("terminated-while-training", {}, "terminated from outside (SIGTERM)"),
        ("train-out-of-memory", {"deepsynth.error": "its own words"}, "its own words"),
        ("train-permission-denied", {}, None),
    ],
)
def test_a_step_that_was_ended_from_outside_gets_its_error(
    record: str,
    tags: dict[str, str],
    error: str | None,
    kubernetes: FakeKubernetes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = json.loads((RECORDS / f"{record}.json").read_text())
    kubernetes.pods, run = content["pods"], content["run"]["run_id"]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deepsynth-finetune")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KFP_RUN_ID", run)
    child = tracked_step(uri, run, **tags)
    close_run("FAILED")
    closed = MlflowClient(uri).get_run(child)
    assert closed.data.tags.get("deepsynth.error") == error
    assert closed.info.status == "KILLED"


def test_an_account_that_may_not_list_pods_is_a_warning(
    kubernetes: FakeKubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    kubernetes.denied = {"pods"}
    assert ended_pods.endings_of_run("1") == {}
    assert "the run's pods cannot be read: pods is forbidden" in caplog.text


def test_outside_of_a_pod_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert ended_pods.endings_of_run("1") == {}
