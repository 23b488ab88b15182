"""MLflow of components/mlflow-auth and components/mlflow-tls: a real server with passwords in PostgreSQL, over TLS."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from components.shared.tracking import mlflow_connection
from components.shared.tracking.model_registry import register, versions_of
from components.shared.tracking.step_run import step_run
from pipelines.doctor.mlflow_checks import server_findings
from tests.fixtures.certificates import server_certificate
from tests.fixtures.cluster_command import Shell
from tests.fixtures.rendered_manifests import Manifest, copy_of_manifests, rendered
from tests.fixtures.tracking_stack import Stack, job_ended, tracking_stack

pytestmark = pytest.mark.slow  # MLflow takes half a minute to make its tables

OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/local]
components: [../components/mlflow-auth, ../components/mlflow-tls]
"""
ADMIN = ("test-only-mlflow_auth_admin_username", "test-only-mlflow_auth_admin_password")
STEPS = ("deepsynth-pipeline", "the-steps-password-1")
COLLEAGUE = ("colleague", "another-password-2")
WRONG = (STEPS[0], "not-the-password-3")


@dataclass(frozen=True)
class Protected:
    objects: list[Manifest]
    stack: Stack
    certificates: dict[str, bytes]
    authority: Path


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    manifests = copy_of_manifests(tmp_path_factory.mktemp("kustomize"))
    (manifests / "protected").mkdir()
    (manifests / "protected" / "kustomization.yaml").write_text(OVERLAY)
    objects, certificates = rendered(manifests / "protected"), server_certificate("mlflow", "mlflow.deepsynth")
    authority = manifests / "ca.crt"
    authority.write_bytes(certificates["ca.crt"])
    secrets = {"mlflow-tls": {name: certificates[name] for name in ("tls.crt", "tls.key")}}
    with tracking_stack(objects, tmp_path_factory.mktemp("stack"), secrets) as stack:
        running = Protected(objects, stack, certificates, authority)
        for account in (STEPS, COLLEAGUE):
            done = account_job(running, tmp_path_factory.mktemp("job"), account)
            assert done.returncode == 0, done.stderr
        yield running


def account_job(protected: Protected, folder: Path, account: tuple[str, str], admin: tuple[str, str] = ADMIN):  # type: ignore[no-untyped-def]
    given = {"MLFLOW_TRACKING_URI": protected.stack.address, "SECONDS_TO_WAIT": "60"}
    given |= dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), admin, strict=True))
    given |= dict(zip(("ACCOUNT_USERNAME", "ACCOUNT_PASSWORD"), account, strict=True))
    authority = {"mlflow-ca": {"ca.crt": protected.certificates["ca.crt"]}}
    return job_ended(protected.objects, "mlflow-steps-account", folder / "pod", given, authority)


def log_in(monkeypatch: pytest.MonkeyPatch, protected: Protected, account: tuple[str, str] | None) -> MlflowClient:
    """Set this process's variables as the environment's file sets a step's; return a client."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "KFP_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", protected.stack.address)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(protected.authority))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_connection, "_last_failures", {})
    if account:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", account[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", account[1])
    client: MlflowClient = mlflow_connection.connect(protected.stack.address)
    return client


def test_without_an_account_only_the_probe_is_answered(protected: Protected) -> None:
    path, trusted = "/api/2.0/mlflow/experiments/search", str(protected.authority)
    for account, status in ((None, 401), (WRONG, 401), (STEPS, 200), (ADMIN, 200)):
        answer = requests.post(
            protected.stack.address + path, json={"max_results": 1}, auth=account, verify=trusted, timeout=60
        )
        assert answer.status_code == status, account
    for page in ("/", "/ajax-api/2.0/mlflow/experiments/search", "/api/2.0/mlflow-artifacts/artifacts"):
        assert requests.get(protected.stack.address + page, verify=trusted, timeout=60).status_code == 401, page
    assert requests.get(f"{protected.stack.address}/health", verify=trusted, timeout=60).text == "OK"


def test_a_step_logs_over_tls_with_its_account(
    protected: Protected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = log_in(monkeypatch, protected, STEPS)
    monkeypatch.setenv("KFP_RUN_ID", "20261129-0300")
    (tmp_path / "adapter_config.json").write_text('{"r": 16}')
    with step_run("train", {"r": 16}) as tracked:
        tracked.log_metrics({"loss": 0.5}, step=1)
        tracked.log_artifact(tmp_path / "adapter_config.json")
    assert tracked.run_id
    run = client.get_run(tracked.run_id)
    assert run.data.params["r"] == "16" and run.data.metrics["loss"] == 0.5 and run.info.status == "FINISHED"
    fetched = client.download_artifacts(tracked.run_id, "adapter_config.json", str(tmp_path / "back"))
    assert Path(fetched).read_text() == '{"r": 16}'
    registered = register(tmp_path, "letters", {"cer": 0.03})

    log_in(monkeypatch, protected, COLLEAGUE)
    assert [one.version for one in versions_of("letters")] == [registered.version]
    with pytest.raises(MlflowException, match=r"403|PERMISSION_DENIED"):  # what another account made
        client.delete_registered_model("letters")


@pytest.mark.parametrize("account", [WRONG, None])
def test_a_step_goes_on_without_a_right_password_and_says_it_once_without_the_password(
    protected: Protected,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    account: tuple[str, str] | None,
) -> None:
    log_in(monkeypatch, protected, account)
    with caplog.at_level(logging.INFO), step_run("gate", {"seed": 1}) as tracked:
        tracked.log_metrics({"loss": 0.5}, step=1)
    assert tracked.run_id is None
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert protected.stack.address in warning and "refuses the credentials (MLFLOW_TRACKING_TOKEN" in warning
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in warning and "the step goes on" in warning
    assert WRONG[1] not in caplog.text and len(warning.splitlines()) == 1


def test_a_certificate_that_is_not_trusted_is_named(
    protected: Protected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log_in(monkeypatch, protected, STEPS)
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
    with step_run("gate", {"seed": 1}) as tracked:
        pass
    assert tracked.run_id is None
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert "certificate is not trusted (MLFLOW_TRACKING_SERVER_CERT_PATH names its authority's file)" in warning


def test_doctor_passes_for_each_account_and_names_a_wrong_password(
    protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = protected.stack.address
    for account in (STEPS, COLLEAGUE):  # the second may not delete in the first one's experiment
        log_in(monkeypatch, protected, account)
        assert [finding.state for finding in server_findings(address, lambda reason: pytest.fail(reason))] == ["ok"] * 2
    log_in(monkeypatch, protected, WRONG)
    (finding,) = server_findings(address, lambda reason: pytest.fail(reason))
    assert finding.state == "fault" and "refuses the credentials" in finding.detail
    assert finding.mend and "MLFLOW_TRACKING_USERNAME" in finding.mend
    assert WRONG[1] not in str(finding)


def test_commands_use_the_account_and_name_a_wrong_one(
    protected: Protected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(tmp_path, monkeypatch, capsys)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    log_in(monkeypatch, protected, STEPS)
    register(adapter, "invoices", {"cer": 0.02})
    listed = shell("adapters", "list", "invoices")
    assert listed.code == 0 and "invoices" in listed.out, listed.err
    log_in(monkeypatch, protected, WRONG)
    refused = shell("adapters", "list", "invoices")
    assert refused.code == 2 and "refuses the credentials" in refused.err and WRONG[1] not in refused.err
    assert len(refused.err.strip().splitlines()) == 1


def test_the_account_job_gives_a_changed_password_and_names_what_is_wrong(protected: Protected, tmp_path: Path) -> None:
    changed = ("changing", "the-first-password-4")
    made = account_job(protected, _new(tmp_path / "a"), changed)
    assert (made.returncode, made.stdout) == (0, "the account changing: made\n"), made.stderr
    again = account_job(protected, _new(tmp_path / "b"), (changed[0], "the-second-password-5"))
    assert again.stdout == "the account changing: has the password of the Secret\n", again.stderr
    wrong = account_job(protected, _new(tmp_path / "c"), changed, (ADMIN[0], "no-such-password-6"))
    (line,) = wrong.stderr.strip().splitlines()[-1:]
    assert wrong.returncode == 1 and line.startswith("error: the account changing: ")
    assert "no-such-password-6" not in wrong.stderr + wrong.stdout


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_passwords_are_not_in_the_servers_log_nor_in_its_tables(protected: Protected) -> None:
    import psycopg2

    (log,) = protected.stack.workdir.parent.glob("log")
    said = log.read_text()
    connection = psycopg2.connect(protected.stack.backend_store_uri.replace("+psycopg2", ""))
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT username, password_hash FROM users")
        users = dict(cursor.fetchall())
    connection.close()
    assert {STEPS[0], COLLEAGUE[0], ADMIN[0]} <= set(users)
    for name, password in (STEPS, COLLEAGUE, ADMIN):
        assert password not in said and password not in users[name]
