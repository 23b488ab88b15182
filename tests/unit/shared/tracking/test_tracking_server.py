"""MLflow with the manifest's command line, with a real PostgreSQL and a real S3 store."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import psycopg2
import pytest
import requests
import yaml
from mlflow.tracking import MlflowClient

from components.shared.tracking.artifact_transfer import direct_access
from components.shared.tracking.mlflow_connection import connect
from components.shared.tracking.model_registry import RegistryUnavailableError, register, versions_of
from components.shared.tracking.registered_files import download
from components.shared.tracking.step_run import step_run
from tests.fixtures.rendered_manifests import Manifest, copy_of_manifests, rendered
from tests.fixtures.tracking_stack import Stack, container_of, mlflow, tracking_stack, upgraded

pytestmark = pytest.mark.slow  # MLflow takes half a minute to make its tables

HOSTS = ("mlflow:5000", "mlflow.deepsynth:5000", "mlflow.deepsynth.svc.cluster.local:5000", "localhost:15000")
FOREIGN_HOSTS = ("evil.example", "mlflow.evil.example:5000", "10.0.0.7:5000")
"""The last one passes MLflow's default check, which allows any private address."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return rendered(copy_of_manifests(tmp_path_factory.mktemp("kustomize")) / "overlays" / "local")


@pytest.fixture(scope="module")
def stack(objects: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with tracking_stack(objects, tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def client(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client like a step's: it knows the server's address and has no key for the object store."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "KFP_", "AWS_")):
            monkeypatch.delenv(name)
    for name, value in direct_access(
        False
    ).items():  # so that monkeypatch restores them: connect() sets them for the whole process
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.address)
    return connect(stack.address)


def test_a_step_logs_and_all_of_it_reads_back(
    client: MlflowClient, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "20261126-0400")
    package = tmp_path / "package"
    package.mkdir()
    big = os.urandom(12_000_000)  # more than one part of an S3 upload
    (package / "adapter_model.safetensors").write_bytes(big)
    with step_run("train", {"learning_rate": 1e-4, "r": 16}) as tracked:
        for step in range(300):
            tracked.log_metrics({"loss": 1 / (step + 1)}, step=step)
        tracked.log_artifact(package)
    assert tracked.run_id
    run = client.get_run(tracked.run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["learning_rate"], run.data.params["r"]) == ("0.0001", "16")
    history = client.get_metric_history(tracked.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / (step + 1)) for step in range(300)]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    fetched = client.download_artifacts(tracked.run_id, "package/adapter_model.safetensors", str(tmp_path))
    assert Path(fetched).read_bytes() == big
    assert stack.gate and stack.gate.refused == 0
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["kfp.run_id"] == "20261126-0400"


def test_a_large_file_passes_through_the_server(
    client: MlflowClient, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "6000000")  # MLflow's default is 500 MB
    (tmp_path / "merged.safetensors").write_bytes(os.urandom(7_000_000))
    with step_run("export", {}) as tracked:
        tracked.log_artifact(tmp_path / "merged.safetensors")
    assert tracked.run_id and stack.gate and stack.gate.refused == 0
    assert [
        (one.path, one.file_size) for one in client.list_artifacts(tracked.run_id) if one.path != "config.json"
    ] == [("merged.safetensors", 7_000_000)]


def test_direct_access_is_refused_to_a_step_and_ends_in_time_with_one_line(
    client: MlflowClient, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct access to S3 is MLflow's default and what ``mlflow_direct_artifacts: true`` allows."""
    (tmp_path / "adapter_config.json").write_text("{}")
    registered = register(tmp_path, "direct", {})
    for name, value in direct_access(True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEEPSYNTH_ARTIFACT_SECONDS", "8")
    started = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match="the version's files cannot be fetched") as caught:
        download(registered, tmp_path / "fetched")
    assert time.monotonic() - started < 120
    assert len(str(caught.value).splitlines()) == 1
    assert stack.gate and stack.gate.refused > 0
    stack.gate.refused = 0


def test_a_model_version_is_registered_and_its_files_come_back(client: MlflowClient, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 16}')
    first = register(adapter, "ocr", {"cer": 0.035})
    second = register(adapter, "ocr", {"cer": 0.030})
    assert [one.version for one in versions_of("ocr")] == [second.version, first.version] == [2, 1]
    client.set_registered_model_alias("ocr", "champion", "2")
    assert client.get_model_version_by_alias("ocr", "champion").version == "2"
    assert second.run_id
    fetched = client.download_artifacts(second.run_id, "adapter", str(tmp_path / "back"))
    assert (Path(fetched) / "adapter_config.json").read_text() == '{"r": 16}'


def test_a_step_writes_into_the_run_that_kfps_mlflow_plugin_made_for_its_task(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin creates a run for the pipeline and one for the task, logs the task's inputs, and closes both."""
    experiment = client.create_experiment("deepsynth-finetune")
    pipeline = client.create_run(experiment, run_name="weekly 12", tags={"kfp.pipeline_run_id": "4f1c0b7e"})
    task = client.create_run(experiment, run_name="train", tags={"mlflow.parentRunId": pipeline.info.run_id})
    monkeypatch.setenv("MLFLOW_RUN_ID", task.info.run_id)
    monkeypatch.setenv("KFP_RUN_ID", "4f1c0b7e")
    with step_run("train", {"r": 16, "config": "ours"}) as tracked:
        tracked.log_metrics({"loss": 0.5}, step=1)
        tracked.summarize({"train_seconds": 2.0})
    assert client.get_run(task.info.run_id).info.status == "RUNNING"
    client.log_param(task.info.run_id, "config", "as KFP's input says it")
    client.set_terminated(task.info.run_id, "FINISHED")
    assert tracked.run_id == task.info.run_id
    ours = client.get_run(tracked.run_id)
    assert ours.data.tags["deepsynth.step"] == "train"
    assert ours.data.params == {"r": "16", "config": "as KFP's input says it"} and ours.data.metrics["loss"] == 0.5
    parent = client.get_run(pipeline.info.run_id)
    assert parent.info.status == "RUNNING" and parent.data.metrics == {"train_seconds": 2.0}
    assert len(client.search_runs([experiment])) == 2


def test_runs_are_in_postgres_and_files_in_the_bucket_under_its_key(
    client: MlflowClient, stack: Stack, objects: list[Manifest]
) -> None:
    with step_run("prepare", {"seed": 3}) as tracked:
        pass
    with (
        psycopg2.connect(stack.backend_store_uri.replace("+psycopg2", "")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT value FROM params WHERE run_uuid = %s AND key = 'seed'", (tracked.run_id,))
        assert cursor.fetchall() == [("3",)]
    connection.close()
    environment = Path(f"/proc/{stack.mlflow.pid}/environ").read_bytes().decode().split("\0")
    server = dict(line.split("=", 1) for line in environment if line)
    bucket, _, prefix = server["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")

    def store(secret: str) -> object:
        return boto3.client(
            "s3",
            endpoint_url=stack.s3,
            region_name=server["AWS_DEFAULT_REGION"],
            aws_access_key_id=server["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret,
        )

    listed = store(server["AWS_SECRET_ACCESS_KEY"]).list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    assert any(f"{tracked.run_id}/artifacts/config.json" in one["Key"] for one in listed)
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        store("another").list_objects_v2(Bucket=bucket)
    anonymous = requests.get(f"{stack.s3}/{bucket}/{listed[0]['Key']}", timeout=60)
    assert anonymous.status_code == 403


@pytest.mark.parametrize("host", HOSTS)
def test_the_services_names_are_answered(stack: Stack, host: str) -> None:
    assert _search(stack, {"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_names_are_refused_but_for_the_probe(stack: Stack, host: str) -> None:
    refused = _search(stack, {"Host": host})
    assert (refused.status_code, refused.text) == (
        403,
        "Invalid Host header - possible DNS rebinding attack detected",
    )
    health = requests.get(f"{stack.address}/health", headers={"Host": host}, timeout=60)
    assert (health.status_code, health.text) == (200, "OK")


def test_another_site_cannot_change_anything_and_no_page_frames_the_ui(stack: Stack) -> None:
    blocked = _search(stack, {"Origin": "https://evil.example"})
    assert (blocked.status_code, blocked.text) == (403, "Cross-origin request blocked")
    assert requests.get(stack.address, timeout=60).headers["X-Frame-Options"] == "DENY"


def test_two_workers_answer_and_nothing_is_written_outside_tmp(stack: Stack, objects: list[Manifest]) -> None:
    below = psutil.Process(stack.mlflow.pid).children(recursive=True)
    commands = [" ".join(process.cmdline()) for process in below]
    assert len([command for command in commands if "spawn_main" in command]) == 2, commands
    assert "--workers=2" in container_of(objects, "mlflow")["args"]
    assert list(stack.workdir.iterdir()) == []


def test_the_upgrade_job_leaves_a_database_of_this_version_as_it_is(
    client: MlflowClient, stack: Stack, tmp_path: Path
) -> None:
    with step_run("gate", {"seed": 1}) as tracked:
        pass
    folder = copy_of_manifests(tmp_path / "kustomize") / "jobs" / "mlflow-db-upgrade"
    (job,) = [one for one in rendered(folder) if one["kind"] == "Job"]
    done = upgraded(job, stack.backend_store_uri, tmp_path)
    assert done.returncode == 0, done.stderr
    assert tracked.run_id and client.get_run(tracked.run_id).data.params == {"seed": "1"}


def test_the_ingress_lets_the_ui_of_its_host_change_things(
    objects: list[Manifest], stack: Stack, tmp_path: Path
) -> None:
    component = copy_of_manifests(tmp_path / "kustomize") / "components" / "ingress" / "public-host.yaml"
    (container,) = yaml.safe_load(component.read_text())["spec"]["template"]["spec"]["containers"]
    values = {one["name"]: one["value"] for one in container["env"]}
    origin = {"Host": "mlflow.example.com", "Origin": "https://mlflow.example.com"}
    assert _search(stack, origin).status_code == 403
    with mlflow(objects, tmp_path, stack.backend_store_uri, "http://127.0.0.1:9", values) as public:
        assert _search(public, origin).status_code == 200
        assert _search(public, {"Host": HOSTS[0]}).status_code == 200
        assert _search(public, origin | {"Origin": "https://evil.example"}).status_code == 403


def _search(stack: Stack, headers: dict[str, str]) -> requests.Response:
    path = "/api/2.0/mlflow/experiments/search"
    return requests.post(stack.address + path, json={"max_results": 1}, headers=headers, timeout=60)
