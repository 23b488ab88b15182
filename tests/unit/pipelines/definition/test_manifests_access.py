"""Who reaches what: MLflow's accounts and certificate in manifests/components, and what a run's pods may reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.definition.environment import read_environment
from tests.fixtures.rendered_manifests import ROOT, Manifest, copy_of_manifests, rendered, selects

PLAIN_TLS = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../base/mlflow]
components: [../components/mlflow-tls]
"""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_manifests(tmp_path_factory.mktemp("kustomize"))


@pytest.fixture(scope="module")
def production(manifests: Path) -> list[Manifest]:
    return rendered(manifests / "overlays" / "production")


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def server(objects: list[Manifest]) -> Manifest:
    (container,) = named(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def secrets_of(container: Manifest) -> dict[str, tuple[str, str]]:
    references = ((one["name"], one.get("valueFrom", {}).get("secretKeyRef")) for one in container.get("env", []))
    return {name: (one["name"], one["key"]) for name, one in references if one}


def test_production_asks_for_passwords_that_come_from_secrets(production: list[Manifest]) -> None:
    container = server(production)
    assert {"--app-name=basic-auth", "--serve-artifacts", "--workers=4"} <= set(container["args"])
    secrets = secrets_of(container)
    assert secrets["MLFLOW_AUTH_ADMIN_PASSWORD"] == ("mlflow-admin", "password")
    assert secrets["MLFLOW_FLASK_SERVER_SECRET_KEY"] == ("mlflow-admin", "form-key")
    job = named(production, "Job", "mlflow-steps-account")["spec"]["template"]["spec"]["containers"][0]
    assert secrets_of(job)["ACCOUNT_PASSWORD"] == ("mlflow-credentials", "password")


def test_the_steps_account_is_the_one_that_the_environment_gives_to_steps(production: list[Manifest]) -> None:
    environment = read_environment(ROOT / "manifests" / "environments" / "production.yaml")
    (given,) = [one for one in environment.secrets if "MLFLOW_TRACKING_PASSWORD" in one.keys.values()]
    assert given.keys == {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"}
    assert not given.optional, "a step without its account would run and track nothing"
    job = named(production, "Job", "mlflow-steps-account")["spec"]["template"]["spec"]["containers"][0]
    assert secrets_of(job)["ACCOUNT_USERNAME"] == (given.name, "username")


def test_the_servers_own_password_is_in_no_pod_of_a_run(production: list[Manifest]) -> None:
    environment = read_environment(ROOT / "manifests" / "environments" / "production.yaml")
    assert "mlflow-admin" not in {one.name for one in environment.secrets}


def test_the_certificate_is_for_the_server_and_the_authority_for_its_clients(manifests: Path) -> None:
    folder = manifests / "plain-tls"
    folder.mkdir(exist_ok=True)
    # The component's second patch is for the Job of mlflow-auth; without that component there is none to patch.
    (folder / "kustomization.yaml").write_text(PLAIN_TLS)
    container = server(rendered(folder))
    (options,) = [one for one in container["args"] if one.startswith("--uvicorn-opts=")]
    assert options.endswith("--ssl-certfile=/tls/tls.crt --ssl-keyfile=/tls/tls.key")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http", "scheme": "HTTPS"}
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == "/tls"]
    assert mount["readOnly"] is True


RUN_POD = {"pipeline/runid": "4f1c", "pipelines.kubeflow.org/v2_component": "true"}


def allowed(policy: Manifest, namespace: str, labels: dict[str, str]) -> Iterator[int]:
    """Yield the ports on which a run's pod may reach a pod with ``labels`` in ``namespace``."""
    for rule in policy["spec"]["egress"]:
        for peer in rule["to"]:
            where = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "no such"}})
            if selects(where, {"kubernetes.io/metadata.name": namespace}) and selects(
                peer.get("podSelector", {}), labels
            ):
                yield from (port["port"] for port in rule["ports"])


def test_a_runs_pod_reaches_names_kfp_and_mlflow_but_not_mlflows_stores(production: list[Manifest]) -> None:
    policy = named(production, "NetworkPolicy", "deepsynth-run-pods")
    assert policy["metadata"]["namespace"] == "deepsynth"
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in policy["spec"]
    assert selects(policy["spec"]["podSelector"], RUN_POD)
    assert not selects(policy["spec"]["podSelector"], {"app.kubernetes.io/name": "mlflow"})
    assert set(allowed(policy, "kube-system", {"k8s-app": "kube-dns"})) == {53}
    # What the launcher's command line names on the cluster of tests/fixtures/cluster_records: 8887 and 8080.
    assert {8887, 8080} <= set(allowed(policy, "kubeflow", {"app": "ml-pipeline"}))
    (port,) = server(production)["ports"]
    assert set(allowed(policy, "deepsynth", {"app.kubernetes.io/name": "mlflow"})) == {port["containerPort"]}
    for stores in ({"app.kubernetes.io/name": "postgres"}, {"app.kubernetes.io/name": "seaweedfs"}):
        assert not set(allowed(policy, "deepsynth", stores))
    assert not set(allowed(policy, "default", {}))
    (outside,) = [peer for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert "169.254.0.0/16" in outside["ipBlock"]["except"], "the node's own credentials"


def test_only_run_pods_kfps_server_and_the_account_job_reach_mlflow(production: list[Manifest]) -> None:
    policies = [one for one in production if one["kind"] == "NetworkPolicy"]
    mlflow = {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/part-of": "deepsynth"}
    admitted = []
    for policy in policies:
        if policy["metadata"]["namespace"] != "deepsynth" or not selects(policy["spec"]["podSelector"], mlflow):
            continue
        for rule in policy["spec"].get("ingress", []):
            admitted += [(peer.get("namespaceSelector"), peer["podSelector"]) for peer in rule["from"]]

    def reaches(namespace: str, labels: dict[str, str]) -> bool:
        name = {"kubernetes.io/metadata.name": namespace}
        return any(
            (selects(where, name) if where else namespace == "deepsynth") and selects(who, labels)
            for where, who in admitted
        )

    assert reaches("deepsynth", RUN_POD) and reaches("kubeflow", {"app": "ml-pipeline"})
    assert reaches("deepsynth", {"app.kubernetes.io/name": "mlflow-steps-account"})
    assert not reaches("default", RUN_POD) and not reaches("deepsynth", {"app": "notebook"})
    assert not reaches("kubeflow", {"app.kubernetes.io/name": "mlflow-steps-account"})
