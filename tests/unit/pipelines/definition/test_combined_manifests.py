"""Components of manifests/ together, as an overlay lists them: TLS, registries, room, the keys of Secrets."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity
from typer.testing import CliRunner

from components.serve.config import ServeConfig
from components.serve.http.admin import WEBHOOK_VARIABLE
from components.serve.http.authentication import METRICS_TOKEN_VARIABLE
from components.shared.programs.step_command import config_from_arguments
from pipelines.command_line import app
from pipelines.definition.environment import read_environment
from tests.fixtures.pod_volumes import pod_volumes
from tests.fixtures.rendered_manifests import (
    ROOT,
    Manifest,
    copy_of_manifests,
    pod_templates,
    references,
    rendered,
    weaknesses,
)

COMPONENTS = ROOT / "manifests" / "components"
PAGES = ("page-service", "page-service-gpu", "page-service-monitoring", "page-service-autoscaling")
ALL = (
    *("mlflow-auth", "ingress", "mlflow-tls", "kubeflow-profile", *PAGES, "page-service-dashboard"),
    *("page-service-samples", "page-service-tls", "page-service-mtls"),
    *("page-service-kserve", "page-service-kserve-vllm", "page-service-kserve-keda"),
    "registry-credentials",
)
IN_THE_FOLDER_OF_THE_RUNS = ("quota", "run-network-policy")
Combined = Callable[..., list[Manifest]]


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Combined:
    """Render an overlay whose own ``components`` are the named ones, in that order."""
    manifests = copy_of_manifests(tmp_path_factory.mktemp("kustomize"))
    done: dict[tuple[str, ...], list[Manifest]] = {}

    def render(overlay: str, *names: str) -> list[Manifest]:
        if (overlay, *names) not in done:
            folder = manifests / "overlays" / overlay
            file, original = folder / "kustomization.yaml", (ROOT / "manifests" / "overlays" / overlay)
            text = re.sub(
                r"^#? ?components:.*\n(  .*\n)*", "", (original / file.name).read_text(), count=1, flags=re.MULTILINE
            )
            listed = "".join(f"  - ../../components/{name}\n" for name in names)
            file.write_text(text + "components:\n" + listed if names else text)
            done[overlay, *names] = rendered(folder)
        return done[overlay, *names]

    return render


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pods(objects: list[Manifest]) -> Iterator[tuple[str, str, Manifest]]:
    """Yield kind, name and pod's spec of everything that makes pods."""
    for one in objects:
        if one["kind"] == "InferenceService":
            yield "InferenceService", one["metadata"]["name"], one["spec"]["predictor"]
        for _, template in pod_templates([one]):
            yield one["kind"], one["metadata"]["name"], template["spec"]


def test_all_components_are_known_here_and_told_in_the_docs() -> None:
    there = {folder.name for folder in COMPONENTS.iterdir() if folder.is_dir()}
    assert there == {*ALL, *IN_THE_FOLDER_OF_THE_RUNS}
    guide = (ROOT / "docs" / "cluster.md").read_text() + (ROOT / "docs" / "serving.md").read_text()
    assert [name for name in sorted(there) if name not in guide] == []


def test_all_components_together_are_valid(combined: Combined) -> None:
    objects = combined("production", *ALL)
    for one in objects:
        if not re.match(r"serving\.kserve|monitoring\.coreos", one["apiVersion"]):
            kubernetes_validate.validate(one, "1.37", strict=True)
    for kind, name, pod in pods(objects):
        if kind != "InferenceService":  # its own test: test_kserve_manifests.py
            assert weaknesses(pod) == [], name


def test_the_guide_deletes_every_kind_of_object(combined: Combined) -> None:
    """By its label, where the namespace is a profile that must stay."""
    short = {"poddisruptionbudget": "pdb", "horizontalpodautoscaler": "hpa", "persistentvolumeclaim": "pvc"}
    kinds = {one["kind"].lower() for one in combined("production", *ALL)} - {"namespace"}
    guide = (ROOT / "docs" / "cluster.md").read_text()
    listed = re.findall(r"--selector app\.kubernetes\.io/part-of=deepsynth(?: \\\n)? +([\w,]+)", guide)
    assert {short.get(kind, kind) for kind in kinds} == {kind for kinds in listed for kind in kinds.split(",")}


CLIENTS = {"mlflow-steps-account", "page-service", "page-reader"}


@pytest.mark.parametrize("first", [True, False], ids=["tls first", "tls last"])
def test_with_tls_every_client_of_mlflow_trusts_it(combined: Combined, first: bool) -> None:
    names = ["mlflow-auth", "page-service", "page-service-kserve"]
    objects = combined("production", *(["mlflow-tls", *names] if first else [*names, "mlflow-tls"]))
    assert _addresses(objects) == dict.fromkeys(CLIENTS, ("https://mlflow:5000", "/mlflow-ca/ca.crt"))
    for _, name, pod in pods(objects):
        if name in CLIENTS:
            (container,) = pod["containers"]
            (mount,) = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/mlflow-ca"]
            (volume,) = [one["configMap"] for one in pod["volumes"] if one["name"] == mount]
            assert volume["name"] == "mlflow-ca", name


def test_without_tls_every_client_speaks_plain_http(combined: Combined) -> None:
    objects = combined("production", "mlflow-auth", "page-service", "page-service-kserve")
    assert _addresses(objects) == dict.fromkeys(CLIENTS, ("http://mlflow:5000", None))


def _addresses(objects: list[Manifest]) -> dict[str, tuple[str, str | None]]:
    """Return the tracking server's address and authority of each pod that is given one."""
    maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    found = {}
    for _, name, pod in pods(objects):
        values: dict[str, str] = {}
        for source in pod["containers"][0].get("envFrom", []):
            values |= maps[source["configMapRef"]["name"]]
        values |= {one["name"]: one.get("value", "") for one in pod["containers"][0].get("env", [])}
        if "MLFLOW_TRACKING_URI" in values:
            found[name] = (values["MLFLOW_TRACKING_URI"], values.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    return found


def test_the_public_name_and_the_name_in_the_cluster_have_certificates_of_their_own(combined: Combined) -> None:
    objects = combined("production", *ALL)
    ingress = named(objects, "Ingress", "mlflow")
    assert ingress["metadata"]["annotations"] == {"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS"}
    pod = named(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]
    inside = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    assert inside == {"mlflow-tls"} and ingress["spec"]["tls"][0]["secretName"] not in inside
    assert "annotations" not in named(combined("production", "ingress"), "Ingress", "mlflow")["metadata"]


def test_every_pod_can_pull_from_a_private_registry(combined: Combined) -> None:
    objects = combined("production", *ALL)
    accounts = {
        one["metadata"]["name"]: one.get("imagePullSecrets") for one in objects if one["kind"] == "ServiceAccount"
    }
    used = {pod["serviceAccountName"] for _, _, pod in pods(objects)}
    assert used <= set(accounts)
    assert {name: accounts[name] for name in used} == {key: [{"name": "registry-credentials"}] for key in used}


def test_kept_pages_and_their_record_are_on_a_volume_of_all_pods(combined: Combined, tmp_path: Path) -> None:
    def settings(*names: str) -> dict[str, Any]:
        maps = [one for one in combined("production", *names) if "settings.yaml" in one.get("data", {})]
        (text,) = [one["data"]["settings.yaml"] for one in maps]
        return dict(yaml.safe_load(text))

    objects, kept = (
        combined("production", "page-service", "page-service-samples"),
        settings("page-service", "page-service-samples"),
    )
    samples = kept.pop("samples")
    assert kept == settings("page-service"), "all other settings are the component's"
    pod = named(objects, "Deployment", "page-service")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    claim = named(objects, "PersistentVolumeClaim", "page-service-samples")
    (volume,) = [one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert ("PersistentVolumeClaim", claim["metadata"]["name"]) in references(pod)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "the pods are on several nodes"
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == volume]
    folder = tmp_path / volume
    folder.mkdir()
    for name in ("store", "audit_file"):
        assert not mount.get("readOnly") and samples[name].startswith(f"{mount['mountPath']}/")
        samples[name] = samples[name].replace(mount["mountPath"], str(folder))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({**kept, "samples": samples}))
    command = ["samples", "expire", "--config", str(tmp_path / "settings.yaml")]
    said = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "0 readings older than 30 days" in said.stdout
    assert [file.name for file in folder.iterdir()] == ["audit.jsonl"]


def test_aliases_are_followed_by_looking_and_no_pod_waits_for_a_webhook(combined: Combined) -> None:
    """One address is one pod of several, and MLflow sends no webhook to an address inside a cluster."""
    objects = combined("production", *ALL)
    followers = []
    for one in objects:
        if "settings.yaml" in one.get("data", {}):
            config = ServeConfig.model_validate(yaml.safe_load(one["data"]["settings.yaml"]))
            assert config.model.endswith("@champion") and 0 < config.registry_poll_seconds <= 60
            followers.append(one["metadata"]["name"].rpartition("-")[0])
    assert sorted(followers) == ["page-reader-settings", "page-service-settings"]
    named_variables = {env["name"] for _, _, pod in pods(objects) for env in pod["containers"][0].get("env", [])}
    assert WEBHOOK_VARIABLE not in named_variables and METRICS_TOKEN_VARIABLE in named_variables


def test_images_are_replaced_wherever_they_are_named(tmp_path: Path) -> None:
    """As the file that ``make manifests`` writes does it, around the whole overlay."""
    around = copy_of_manifests(tmp_path).parent / "build"
    overlay = around.parent / "manifests" / "overlays" / "production" / "kustomization.yaml"
    overlay.write_text(re.sub(r"(?m)^  # - (\.\./)", r"  - \1", overlay.read_text()))  # all that it proposes
    around.mkdir()
    names = ("deepsynth-mlflow", "deepsynth-pipelines-python", "deepsynth-pipelines-python-cuda")
    (around / "kustomization.yaml").write_text(
        "resources: [../manifests/overlays/production]\n"
        "components: [../manifests/components/page-service-gpu, ../manifests/components/page-service-kserve]\nimages:\n"
        + "".join(f"- {{name: {name}, newName: ghcr.io/me/{name}, newTag: a1}}\n" for name in names)
    )
    images = {
        container["image"]
        for _, _, pod in pods(rendered(around))
        for container in [*pod.get("initContainers", []), *pod["containers"]]
    }
    assert images == {f"ghcr.io/me/{name}:a1" for name in names}


def requested(pod: Manifest, resource: str) -> float:
    return sum(float(parse_quantity(one["resources"]["requests"].get(resource, 0))) for one in pod["containers"])


def test_the_page_service_fits_the_machine_of_the_local_overlay(combined: Combined) -> None:
    """Beside KFP and MLflow (docs/cluster.md: 0.92 CPU, 3 GiB) and two tasks of the quickstart."""
    words = re.search(r"plan for (\d+) CPUs and\s+(\d+) GiB", (ROOT / "docs" / "cluster.md").read_text())
    assert words
    deployment = named(combined("local", "page-service"), "Deployment", "page-service")["spec"]
    task = read_environment(ROOT / "manifests" / "environments" / "local.yaml").resources.gpu
    others = {"cpu": 0.92, "memory": 3 * 2**30}
    machine = {"cpu": float(words[1]), "memory": float(words[2]) * 2**30}
    for resource, there in machine.items():
        wanted = others[resource] + 2 * float(parse_quantity(getattr(task, f"{resource}_request")))
        wanted += deployment["replicas"] * requested(deployment["template"]["spec"], resource)
        assert wanted <= 0.75 * there, f"{resource}: {wanted} of {there}"
    whole = named(combined("production", "page-service"), "Deployment", "page-service")["spec"]["template"]["spec"]
    assert requested(whole, "memory") == 4 * 2**30, "production keeps the component's own"


def test_the_quota_has_room_for_a_run_and_the_service_while_it_is_replaced(combined: Combined) -> None:
    objects = combined("production", "page-service", "page-service-gpu")
    quota = int(named(objects, "ResourceQuota", "deepsynth-runs")["spec"]["hard"]["requests.nvidia.com/gpu"])
    service = named(objects, "Deployment", "page-service")["spec"]
    surge = service["strategy"]["rollingUpdate"]["maxSurge"]
    served = (service["replicas"] + surge) * requested(service["template"]["spec"], "nvidia.com/gpu")
    environment = read_environment(ROOT / "manifests" / "environments" / "production.yaml")
    assert environment.namespace == "deepsynth", "the same namespace"
    assert served + 2 * environment.gpu.count <= quota, "evaluate and benchmark run side by side"


def test_the_service_speaks_https_and_its_probes_too(combined: Combined, tmp_path: Path) -> None:
    objects = combined("production", "page-service", "page-service-monitoring", "page-service-tls")
    pod, config = _page_service(objects, tmp_path)
    assert config.tls_certificate and config.tls_key and config.tls_client_ca is None
    for probe in ("startup", "readiness", "liveness"):
        assert pod["containers"][0][f"{probe}Probe"]["httpGet"]["scheme"] == "HTTPS"
    (endpoint,) = named(objects, "ServiceMonitor", "page-service")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https" and endpoint["tlsConfig"]["serverName"] == "page-service.deepsynth.svc"
    assert endpoint["authorization"]["credentials"]["key"] == "metrics"


def test_where_clients_need_a_certificate_the_probes_are_programs_that_have_one(
    combined: Combined, tmp_path: Path
) -> None:
    names = ("page-service", "page-service-monitoring", "page-service-tls", "page-service-mtls")
    objects = combined("production", *names)
    pod, config = _page_service(objects, tmp_path)
    assert config.tls_client_ca and config.tls_certificate
    (container,) = pod["containers"]
    files = {
        f"{mount['mountPath']}/": next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
        for mount in container["volumeMounts"]
    }
    for probe, name in {"startup": "startup", "readiness": "ready", "liveness": "live"}.items():
        chosen = container[f"{probe}Probe"]
        assert "httpGet" not in chosen
        python, program, address, folder = chosen["exec"]["command"]
        assert (python, address) == ("python3", f"https://127.0.0.1:{config.port}/health/{name}")
        where, _, file = program.rpartition("/")
        programs = named(objects, "ConfigMap", files[f"{where}/"]["configMap"]["name"])
        assert programs["data"][file] == (COMPONENTS / "page-service-mtls" / "probe.py").read_text()
        assert files[f"{folder}/"]["secret"]["secretName"] == "page-service-probe-tls"
    (endpoint,) = named(objects, "ServiceMonitor", "page-service")["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["cert"]["secret"]["name"] == endpoint["tlsConfig"]["keySecret"]["name"]


def _page_service(objects: list[Manifest], folder: Path) -> tuple[Manifest, ServeConfig]:
    """Return the page service's pod, and the settings that its command line means with its volumes in ``folder``."""
    pod = named(objects, "Deployment", "page-service")["spec"]["template"]["spec"]
    given = {
        name: dict.fromkeys(("tls.crt", "tls.key", "ca.crt", "clients", "administrators"), b"")
        for name in ("page-service-tls", "page-service-probe-tls", "page-service-clients", "page-service-tokens")
    }
    volumes = pod_volumes(pod, objects, folder, given)
    arguments = [volumes.placed(pod["containers"][0], text) for text in pod["containers"][0]["args"]]
    config, _ = config_from_arguments("serve", ServeConfig, arguments)
    assert isinstance(config, ServeConfig)
    files = [getattr(config, f"tls_{name}") for name in ("certificate", "key", "client_ca")]
    assert all(file.is_file() for file in files if file), "each file is in a mounted volume"
    return pod, config


def test_the_guide_makes_every_key_that_a_pod_needs(combined: Combined) -> None:
    """Each Secret's and ConfigMap's key that is neither rendered nor optional is made by a command of the guide."""
    objects = combined("production", *ALL)
    there = {(one["kind"], one["metadata"]["name"]) for one in objects if one["kind"] == "ConfigMap"}
    needed = {
        (kind, name, key) for _, _, pod in pods(objects) for kind, name, key in _keys(pod) if (kind, name) not in there
    }
    needed |= {("Secret", one["name"], one["key"]) for one in _monitors_keys(objects)}
    made = _made_by(re.sub(r"\\\n\s*", "", (ROOT / "docs" / "cluster.md").read_text()))
    assert len(needed) > 12 and needed - made == set()


def _keys(pod: Manifest) -> Iterator[tuple[str, str, str]]:
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and not reference.get("optional"):
                yield "Secret", reference["name"], reference["key"]
        arguments = " ".join([*container.get("args", []), *map(str, container.get("command", []))])
        for mount in container.get("volumeMounts", []):
            (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
            files = [item["key"] for item in volume.get("secret", {}).get("items", [])]
            files = files or re.findall(rf"{mount['mountPath']}/([\w.]+)", arguments)
            if "secret" in volume:
                yield from (("Secret", volume["secret"]["secretName"], file) for file in files)
            elif "configMap" in volume:
                yield from (("ConfigMap", volume["configMap"]["name"], file) for file in files)


def _monitors_keys(objects: list[Manifest]) -> Iterator[dict[str, Any]]:
    (endpoint,) = named(objects, "ServiceMonitor", "page-service")["spec"]["endpoints"]
    yield endpoint["authorization"]["credentials"]
    yield endpoint["tlsConfig"]["ca"]["secret"]
    yield endpoint["tlsConfig"]["cert"]["secret"]
    yield endpoint["tlsConfig"]["keySecret"]


def _made_by(guide: str) -> set[tuple[str, str, str]]:
    made = set()
    for kind, name, rest in re.findall(r"create (secret generic|configmap) ([\w-]+)(.*)", guide):
        object_kind = "ConfigMap" if kind == "configmap" else "Secret"
        made |= {(object_kind, name, key) for key in re.findall(r"--from-(?:literal|file)=([\w.-]+)", rest)}
    for name in re.findall(r"secretName: ([\w-]+)", guide):  # cert-manager's Certificates
        made |= {("Secret", name, key) for key in ("tls.crt", "tls.key", "ca.crt")}
    return made
