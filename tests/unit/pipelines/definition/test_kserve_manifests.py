"""manifests/components/page-service-kserve*: valid for KServe and Kubernetes, hardened, in step with the settings.

The predictor's own fields are those of KServe's published API (``ComponentExtensionSpec`` of v1beta1); all others are a
pod's, which Kubernetes' published types check.
"""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from components.serve.config import ServeConfig
from components.serve.vllm.command import NO_REPEAT_PROCESSOR
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

KUSTOMIZATION = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/local]
components: [{components}]
"""
SECONDS_TO_END = 15
NUMBER = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
EXTERNAL_METRIC = {
    "required": ["type", "external"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "External"},
        "external": {
            "required": ["metric", "target"],
            "additionalProperties": False,
            "properties": {
                "metric": {
                    "required": ["backend", "serverAddress", "query"],
                    "additionalProperties": False,
                    "properties": {"backend": {"enum": ["prometheus", "graphite"]},
                                   "serverAddress": {"pattern": "^https?://"}, "query": {"type": "string"}},
                },
                "target": {"properties": {"type": {"const": "Value"}, "value": {"pattern": "^[0-9]+$"}},
                           "required": ["type", "value"], "additionalProperties": False},
            },
        },
    },
}  # fmt: skip
EXTENSION = {
    "minReplicas": NUMBER,
    "maxReplicas": NUMBER,
    "scaleTarget": NUMBER,
    "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
    "containerConcurrency": NUMBER,
    "timeout": NUMBER,
    "canaryTrafficPercent": NUMBER,
    "labels": TEXTS,
    "annotations": TEXTS,
    "deploymentStrategy": {"type": "object"},
    "autoScaling": {
        "required": ["metrics"],
        "additionalProperties": False,
        "properties": {
            "metrics": {"type": "array", "minItems": 1, "items": EXTERNAL_METRIC},
            "behavior": {"type": "object"},
        },
    },
}
INFERENCE_SERVICE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {
            "type": "object",
            "properties": {
                "name": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50},
                "annotations": {
                    "properties": {
                        "serving.kserve.io/deploymentMode": {"enum": ["Standard", "Knative"]},
                        "serving.kserve.io/autoscalerClass": {"enum": ["hpa", "keda", "external", "none"]},
                    }
                },
            },
        },
        "spec": {"type": "object", "required": ["predictor"], "additionalProperties": False,
                 "properties": {"predictor": {"type": "object", "required": ["containers"]}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["embedded", "embedded keda", "vllm", "vllm keda"])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = copy_of_manifests(tmp_path_factory.mktemp("kustomize")) / "with-kserve"
    folder.mkdir()
    more = [name for name in ("vllm", "keda") if name in request.param.split()]
    names = ["page-service-kserve", *(f"page-service-kserve-{name}" for name in more)]
    components = ", ".join(f"../components/{name}" for name in names)
    (folder / "kustomization.yaml").write_text(KUSTOMIZATION.format(components=components))
    return [one for one in rendered(folder) if "page-reader" in one["metadata"]["name"]]


def of_kind(objects: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


@pytest.fixture
def predictor(objects: list[Manifest]) -> Manifest:
    found: Manifest = of_kind(objects, "InferenceService")["spec"]["predictor"]
    return found


@pytest.fixture
def pod(predictor: Manifest) -> Manifest:
    return {name: value for name, value in predictor.items() if name not in EXTENSION}


def settings_of(objects: list[Manifest]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(of_kind(objects, "ConfigMap")["data"]["settings.yaml"])
    return found


def test_the_objects_are_valid(objects: list[Manifest], predictor: Manifest, pod: Manifest) -> None:
    service = of_kind(objects, "InferenceService")
    jsonschema.validate(service, INFERENCE_SERVICE)
    jsonschema.validate({name: predictor[name] for name in predictor if name in EXTENSION}, {"properties": EXTENSION})
    assert predictor["minReplicas"] <= predictor["maxReplicas"]
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    deployment = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    deployment["strategy"] = predictor["deploymentStrategy"]
    others = [one for one in objects if one["kind"] not in ("InferenceService", "PodMonitor")]
    made = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "made"}, "spec": deployment}
    for one in (*others, made):
        for version in ("1.30", "1.37"):
            kubernetes_validate.validate(one, version, strict=True)
    assert {one["metadata"]["namespace"] for one in objects} == {"deepsynth"}


def test_pods_are_added_by_the_cpu_or_with_keda_by_the_queue(objects: list[Manifest], predictor: Manifest) -> None:
    service = of_kind(objects, "InferenceService")
    monitors = [one["spec"] for one in objects if one["kind"] == "PodMonitor"]
    scaler = service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"]
    assert scaler == ("keda" if monitors else "hpa")
    assert ("scaleMetric" in predictor, "autoScaling" in predictor) == (not monitors, bool(monitors))
    if not monitors:
        return
    config = ServeConfig.model_validate(settings_of(objects))
    (metric,) = predictor["autoScaling"]["metrics"]
    assert int(metric["external"]["target"]["value"]) <= config.max_batch_size, "a batch of waiting pages at most"
    assert 'namespace="deepsynth"' in metric["external"]["metric"]["query"]
    (monitor,) = monitors
    pods = {"serving.kserve.io/inferenceservice": "page-reader"}
    (endpoint,) = monitor["podMetricsEndpoints"]
    (port,) = predictor["containers"][0]["ports"]
    assert selects(monitor["selector"], pods) and endpoint["port"] == port["name"]
    tokens = {
        env["name"]: env["valueFrom"]["secretKeyRef"] for env in predictor["containers"][0]["env"] if "valueFrom" in env
    }
    assert tokens["DEEPSYNTH_SERVE_METRICS_TOKEN"] == endpoint["authorization"]["credentials"]
    admitted = [
        (peer["namespaceSelector"]["matchLabels"], port["port"])
        for one in objects
        if one["kind"] == "NetworkPolicy" and selects(one["spec"]["podSelector"], pods)
        for rule in one["spec"].get("ingress", [])
        for peer in rule["from"]
        if "podSelector" in peer and "namespaceSelector" in peer
        for port in rule["ports"]
    ]
    assert admitted == [({"kubernetes.io/metadata.name": "monitoring"}, config.port)], "Prometheus reaches the pods"


def test_the_pod_meets_the_restricted_standard(objects: list[Manifest], pod: Manifest) -> None:
    unpinned = [one for one in weaknesses(pod) if "vllm/vllm-openai" in one]
    assert [one for one in weaknesses(pod) if one not in unpinned] == []
    assert len(unpinned) == len(pod["containers"]) - 1, "vLLM's image: its digest is for the overlay to pin"
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    # Of base/mlflow: test_combined_manifests.py reads it.
    missing = {one for one in references(pod) - there if not one[1].startswith("mlflow-client-")}
    assert missing <= {("Secret", name) for name in ("page-service-tokens", "mlflow-credentials", "deepsynth-hub")}
    (image,) = [one["image"] for one in pod["containers"] if one["name"] == "kserve-container"]
    assert image.endswith("-set-me"), "kustomize replaces the image, so it finds the field"


def test_the_service_starts_with_its_settings(objects: list[Manifest], predictor: Manifest, pod: Manifest) -> None:
    config = ServeConfig.model_validate(settings_of(objects))
    service = pod["containers"][0]
    assert service["ports"][0]["containerPort"] == config.port
    assert pod["terminationGracePeriodSeconds"] == config.drain_notice_seconds + config.drain_seconds + SECONDS_TO_END
    assert predictor["timeout"] > config.request_timeout_seconds
    (tokens,) = [volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume]
    files = [config.token_file, config.admin_token_file, config.vllm_token_file]
    assert sorted(f"/tokens/{item['path']}" for item in tokens) == sorted(str(file) for file in files if file)
    paths = {name: service[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/startup", "readiness": "/health/ready", "liveness": "/health/live"}
    if config.engine == "vllm":
        _check_vllm(config, pod)


def _check_vllm(config: ServeConfig, pod: Manifest) -> None:
    service, vllm = pod["containers"]
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in vllm["args"])
    assert config.vllm_address == f"http://{given['host']}:{given['port']}"
    assert given["model"] == given["served-model-name"] == config.base_model
    assert int(given["max-num-seqs"]) == config.max_batch_size
    assert given["logits-processors"] == NO_REPEAT_PROCESSOR, "for the packages that were evaluated with a rule"
    given_rule = {"no_repeat_ngram_size", "no_repeat_ngram_window"} & config.model_fields_set
    assert not given_rule, "it would be every package's"
    assert "enable-lora" in given
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"} in vllm["env"]
    notice = int(vllm["lifecycle"]["preStop"]["exec"]["command"][1])
    assert config.drain_notice_seconds + config.drain_seconds <= notice < pod["terminationGracePeriodSeconds"]
    assert pod["tolerations"][0]["key"] in vllm["resources"]["limits"]
    both = [{one["mountPath"]: one["name"] for one in container["volumeMounts"]} for container in (service, vllm)]
    assert both[0]["/tmp"] == both[1]["/tmp"], "vLLM reads the adapters where the service has put them"


def test_what_requests_take_fits_the_pods_memory(objects: list[Manifest], pod: Manifest) -> None:
    (container,) = [one for one in pod["containers"] if one["name"] == "kserve-container"]
    assert requests_fit(ServeConfig.model_validate(settings_of(objects)), container)


def test_the_docs_name_the_components() -> None:
    guide = (ROOT / "docs" / "serving.md").read_text()
    for name in Path(ROOT / "manifests" / "components").glob("page-service-kserve*"):
        assert name.name in guide
