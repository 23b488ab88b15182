"""manifests/components/page-service*: on both overlays, valid, hardened, and in step with the service's settings."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.serve.config import ServeConfig
from components.serve.http.authentication import access_of
from tests.fixtures.rendered_manifests import (
    ROOT,
    Manifest,
    copy_of_manifests,
    references,
    rendered,
    selects,
    weaknesses,
)
from tests.fixtures.service_memory import requests_fit

COMPONENTS = ROOT / "manifests" / "components"
ALL = ("page-service", "page-service-autoscaling", "page-service-monitoring", "page-service-dashboard")
KUSTOMIZATION = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/{overlay}]
components: [{components}]
"""
SECONDS_TO_END = 15  # after the last request: threads, sockets, spans
LABELS = {"app.kubernetes.io/name": "page-service", "app.kubernetes.io/part-of": "deepsynth"}
# docs/cluster.md says how to make them; those of MLflow and of the hub may be missing.
SECRETS = {("Secret", name) for name in ("page-service-tokens", "mlflow-credentials", "deepsynth-hub")}


@pytest.fixture(scope="module", params=["local", "production", "production with GPUs"])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    overlay, _, gpu = request.param.partition(" ")
    folder = copy_of_manifests(tmp_path_factory.mktemp("kustomize")) / "with-pages"
    folder.mkdir()
    names = (*ALL, "page-service-gpu") if gpu else ALL
    components = ", ".join(f"../components/{name}" for name in names)
    (folder / "kustomization.yaml").write_text(KUSTOMIZATION.format(overlay=overlay, components=components))
    return rendered(folder)


@pytest.fixture
def pages(objects: list[Manifest]) -> list[Manifest]:
    """What the components add to an overlay."""
    return [one for one in objects if "page-service" in one["metadata"]["name"]]


def named(objects: list[Manifest], kind: str, name: str = "page-service") -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pod_of(objects: list[Manifest]) -> Manifest:
    pod: Manifest = named(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def settings_of(objects: list[Manifest]) -> dict[str, Any]:
    (settings,) = [one for one in objects if one["metadata"]["name"].startswith("page-service-settings")]
    found: dict[str, Any] = yaml.safe_load(settings["data"]["settings.yaml"])
    return found


def test_the_objects_are_valid_and_labelled(pages: list[Manifest]) -> None:
    kinds = sorted(one["kind"] for one in pages)
    assert kinds == sorted(
        ["ConfigMap"] * 3
        + ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServiceAccount"]
        + ["NetworkPolicy"] * 3
        + ["ServiceMonitor"]
    )
    for one in pages:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "deepsynth"
        assert one["metadata"]["namespace"] == "deepsynth"
        if one["kind"] != "ServiceMonitor":  # a type of the Prometheus operator
            for version in ("1.30", "1.37"):
                kubernetes_validate.validate(one, version, strict=True)


def test_the_pod_meets_the_restricted_standard(objects: list[Manifest], pages: list[Manifest]) -> None:
    pod = pod_of(objects)
    assert weaknesses(pod) == []
    assert pages
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert references(pod) - there == SECRETS - there
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert all(name in guide for _, name in SECRETS)
    writable = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/cache"}


def test_the_service_starts_with_its_settings_and_needs_tokens(
    objects: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(objects)
    (tokens,) = [volume["secret"] for volume in pod_of(objects)["volumes"] if "secret" in volume]
    for item in tokens["items"]:
        (tmp_path / item["path"]).write_text(f"someone:{item['key']}-0123456789abcdef\n")
    for name in ("token_file", "admin_token_file"):
        mounted = Path(settings[name])
        assert str(mounted.parent) == "/tokens"
        settings[name] = tmp_path / mounted.name
    monkeypatch.delenv("DEEPSYNTH_SERVE_TOKEN", raising=False)
    access = access_of(ServeConfig.model_validate(settings))
    assert access.clients.name_of("clients-0123456789abcdef") == "someone"
    assert access.administrators.name_of("clients-0123456789abcdef") is None
    (port,) = pod_of(objects)["containers"][0]["ports"]
    (service_port,) = named(objects, "Service")["spec"]["ports"]
    assert settings["port"] == port["containerPort"] and service_port["targetPort"] == port["name"]


def test_a_pod_that_ends_has_time_for_what_is_in_flight(objects: list[Manifest]) -> None:
    config, pod = ServeConfig.model_validate(settings_of(objects)), pod_of(objects)
    grace = config.drain_notice_seconds + config.drain_seconds + SECONDS_TO_END
    assert pod["terminationGracePeriodSeconds"] == grace
    assert config.drain_seconds >= config.request_timeout_seconds, "a request may take all of its time"
    ready = pod["containers"][0]["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < config.drain_notice_seconds
    probes = {name: pod["containers"][0][f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness")}
    assert probes == {"startup": "/health/startup", "liveness": "/health/live"}
    assert ready["httpGet"] == {"path": "/health/ready", "port": "http"}


def test_what_requests_take_fits_the_pods_memory(objects: list[Manifest]) -> None:
    config, pod = ServeConfig.model_validate(settings_of(objects)), pod_of(objects)
    assert requests_fit(config, pod["containers"][0])
    assert not requests_fit(ServeConfig(max_queued_pixels=2**33), pod["containers"][0])


def test_selectors_find_the_pods(objects: list[Manifest]) -> None:
    deployment = named(objects, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == LABELS and selects(deployment["selector"], labels)
    service = named(objects, "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    assert selects(named(objects, "PodDisruptionBudget")["spec"]["selector"], labels)
    monitor = named(objects, "ServiceMonitor")["spec"]
    assert selects(monitor["selector"], service["metadata"]["labels"])
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [service["spec"]["ports"][0]["name"]]
    token = monitor["endpoints"][0]["authorization"]["credentials"]
    variables = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in pod_of(objects)["containers"][0]["env"]}
    assert variables["DEEPSYNTH_SERVE_METRICS_TOKEN"] == token, "Prometheus' token is one that the service knows"
    assert "DEEPSYNTH_SERVE_TOKEN" not in variables, "and reads no pages"


def test_the_autoscaler_alone_says_how_many_pods_there_are(objects: list[Manifest]) -> None:
    scaler = named(objects, "HorizontalPodAutoscaler")["spec"]
    target = named(objects, "Deployment")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": "Deployment",
        "name": "page-service",
    }
    assert "replicas" not in target["spec"] and scaler["minReplicas"] >= 2
    (metric,) = [one["pods"] for one in scaler["metrics"]]
    values = yaml.safe_load((COMPONENTS / "page-service-autoscaling" / "prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert (
        rule["seriesQuery"].startswith(metric["metric"]["name"] + "{")
        and rule["name"]["as"] == metric["metric"]["name"]
    )
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    assert int(metric["target"]["averageValue"]) == settings_of(objects)["max_batch_size"]


def test_who_reaches_the_service_and_what_it_reaches(objects: list[Manifest]) -> None:
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    applied = [one for one in policies if selects(one["podSelector"], LABELS)]
    peers = [peer for policy in applied for rule in policy.get("ingress", []) for peer in rule["from"]]

    def reaches(namespace: dict[str, str], labels: dict[str, str], same: bool = False) -> bool:
        return any(
            (selects(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else same)
            and selects(peer.get("podSelector", {}), labels)
            for peer in peers
        )

    name = "kubernetes.io/metadata.name"
    assert reaches({name: "ingress-nginx"}, {}) and reaches({"page-service-clients": "true"}, {})
    assert reaches({name: "deepsynth"}, {"page-service-client": "true"}, same=True)
    assert reaches({name: "monitoring"}, {"app.kubernetes.io/name": "prometheus"})
    assert not reaches({name: "monitoring"}, {"app": "other"}) and not reaches({name: "default"}, {})
    assert not reaches({name: "deepsynth"}, {"pipeline/runid": "4f1c"}, same=True)
    reached = {
        (json.dumps(next(iter(peer.values())), sort_keys=True), port["port"])
        for policy in applied
        for rule in policy.get("egress", [])
        for peer in rule["to"]
        for port in rule["ports"]
    }
    assert sorted(port for _, port in reached if port != "http") == [53, 443, 4318]
    (outside,) = [peer for peer, port in reached if port == 443]
    assert "169.254.0.0/16" in outside, "the node's own credentials"
    mlflow = {"app.kubernetes.io/name": "mlflow", "app.kubernetes.io/part-of": "deepsynth"}
    admitted = [
        peer["podSelector"]
        for policy in policies
        if selects(policy["podSelector"], mlflow)
        for rule in policy.get("ingress", [])
        for peer in rule["from"]
        if set(peer) == {"podSelector"}
    ]
    assert any(selects(who, LABELS) for who in admitted), "MLflow admits it"


def test_the_dashboard_is_where_grafanas_sidecar_looks(objects: list[Manifest]) -> None:
    config = named(objects, "ConfigMap", "page-service-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    (text,) = config["data"].values()
    rows = [panel["title"] for panel in json.loads(text)["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency by phase", "Batches", "Models", "Failures", "GPU and process"]


def test_gpu_pods_have_a_gpu_and_its_image(objects: list[Manifest]) -> None:
    (container,) = pod_of(objects)["containers"]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert container["image"].partition(":")[0] == f"deepsynth-pipelines-python{'-cuda' if gpus else ''}"
    assert bool(pod_of(objects).get("tolerations")) == bool(gpus)
