"""manifests/: each kustomization renders, is valid by Kubernetes' types, and meets the rules of Pod Security."""

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from pipelines.definition.environment import read_environment
from tests.fixtures.rendered_manifests import (
    ROOT,
    Manifest,
    copy_of_manifests,
    files_of_the_repository,
    pod_templates,
    references,
    rendered,
    selects,
    weaknesses,
)

# Kubernetes supports three minor versions at a time; KFP 2.17 and Argo run on older ones too.
OLDEST, NEWEST = "1.30", "1.37"
FOLDERS = (
    *("base", "base/mlflow", "base/runs", "overlays/local", "overlays/production", "jobs/mlflow-db-upgrade"),
    *("with-components", "build/local", "build/production"),
)
WHOLE = ("overlays/local", "overlays/production", "with-components")
# Users of the cluster create these, as docs/cluster.md says.
EXTERNAL = {
    *(("Secret", f"mlflow-{name}") for name in ("backend-store", "artifact-store", "admin", "credentials", "tls")),
    ("ConfigMap", "mlflow-ca"),
}
WITH_COMPONENTS = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/production]
components: [../components/ingress, ../components/mlflow-tls, ../components/kubeflow-profile]
"""


@pytest.fixture(scope="session")
def objects_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """All folders' objects, rendered once from a copy with the example passwords."""
    manifests = copy_of_manifests(tmp_path_factory.mktemp("kustomize"))
    (manifests / "with-components").mkdir()
    (manifests / "with-components" / "kustomization.yaml").write_text(WITH_COMPONENTS)
    arguments = [
        "make",
        "--silent",
        "--file",
        str(ROOT / "Makefile"),
        "manifests",
        "REGISTRY=ghcr.io/me",
        "TAG=1.2.3-ab",
    ]
    subprocess.run(arguments, cwd=manifests.parent, check=True, timeout=3000)
    built = manifests.parent / "build" / "manifests"
    return {
        folder: rendered(built / folder.removeprefix("build/") if folder.startswith("build/") else manifests / folder)
        for folder in FOLDERS
    }


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [one for one in objects if one["kind"] == kind]


def pods_of(objects: list[Manifest]) -> list[tuple[str, Manifest]]:
    pods = list(pod_templates(objects))
    assert pods
    return pods


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_types_allow_every_object(objects_of: dict[str, list[Manifest]], version: str) -> None:
    objects = {json.dumps(one, sort_keys=True): one for folder in FOLDERS for one in objects_of[folder]}
    assert len(objects) > 40
    for one in objects.values():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("folder", WHOLE)
def test_everything_carries_the_projects_label(objects_of: dict[str, list[Manifest]], folder: str) -> None:
    for one in objects_of[folder]:
        labels = one["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "deepsynth", one["metadata"]


def _set(*path: str | int, value: Any) -> Callable[[Manifest], None]:
    def change(one: Manifest) -> None:
        for key in path[:-1]:
            one = one[key]
        one[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", _set("spec", "template", "spec", "containers", 0, "securitycontext", value={})),
        ("Deployment", _set("spec", "replicas", value="two")),
        ("Deployment", _set("spec", "template", "spec", "containers", 0, "ports", value=[{"name": "http"}])),
        ("Service", _set("spec", "ports", 0, "port", value=None)),
        ("NetworkPolicy", _set("spec", "podselector", value={})),
        ("Role", _set("rules", 0, "verb", value=["create"])),
        ("PersistentVolumeClaim", _set("spec", "resources", "request", value={"storage": "1Gi"})),
        ("ConfigMap", _set("data", "number", value=3)),
    ],
)
def test_the_validator_refuses_a_wrong_object(
    objects_of: dict[str, list[Manifest]], kind: str, change: Callable[[Manifest], None]
) -> None:
    wrong = copy.deepcopy(of_kind(objects_of["base"], kind)[0])
    kubernetes_validate.validate(wrong, NEWEST, strict=True)
    change(wrong)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_meets_the_restricted_standard(objects_of: dict[str, list[Manifest]], folder: str) -> None:
    for name, template in pods_of(objects_of[folder]):
        assert weaknesses(template["spec"]) == [], name


@pytest.mark.parametrize(
    ("change", "weakness"),
    [
        (_set("hostNetwork", value=True), "hostNetwork"),
        (_set("securityContext", "runAsNonRoot", value=False), "may run as root"),
        (_set("securityContext", "seccompProfile", value={"type": "Unconfined"}), "no seccomp profile"),
        (_set("automountServiceAccountToken", value=True), "has a service account's token"),
        (_set("enableServiceLinks", value=True), "gets other Services' addresses as variables"),
        (_set("volumes", 0, value={"name": "tmp", "hostPath": {"path": "/"}}), "volume tmp"),
        (_set("containers", 0, "securityContext", "privileged", value=True), "mlflow: privileged"),
        (_set("containers", 0, "securityContext", "allowPrivilegeEscalation", value=True), "mlflow: may escalate"),
        (_set("containers", 0, "securityContext", "capabilities", value={}), "mlflow: keeps capabilities"),
        (_set("containers", 0, "securityContext", "runAsUser", value=0), "mlflow: runs as root"),
        (
            _set("containers", 0, "securityContext", "readOnlyRootFilesystem", value=False),
            "mlflow: root file system can be written",
        ),
        (_set("containers", 0, "resources", "limits", value={"cpu": "1"}), "mlflow: no limits of memory"),
        (_set("containers", 0, "image", value="mlflow:latest"), "mlflow: image mlflow:latest is not pinned"),
        (_set("containers", 0, "image", value="host:5000/mlflow"), "mlflow: image host:5000/mlflow is not pinned"),
    ],
)
def test_a_weaker_pod_is_found(
    objects_of: dict[str, list[Manifest]], change: Callable[[Manifest], None], weakness: str
) -> None:
    pod = copy.deepcopy(find(objects_of["base"], "Deployment", "mlflow")["spec"]["template"]["spec"])
    change(pod)
    assert weaknesses(pod) == [weakness]


@pytest.mark.parametrize("folder", FOLDERS)
def test_servers_have_all_three_probes_on_a_port_of_theirs(objects_of: dict[str, list[Manifest]], folder: str) -> None:
    for name, template in pods_of(objects_of[folder]):
        for container in template["spec"]["containers"] if not name.startswith("Job") else []:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "exec" in container[probe] or container[probe]["httpGet"]["port"] in ports, (name, probe)


@pytest.mark.parametrize("folder", WHOLE)
def test_everything_that_a_pod_refers_to_is_there_or_documented(
    objects_of: dict[str, list[Manifest]], folder: str
) -> None:
    objects = objects_of[folder]
    external = EXTERNAL if folder != "overlays/local" else set()
    for one in objects:
        for name, template in pod_templates([one]):
            there = {
                (other["kind"], other["metadata"]["name"])
                for other in objects
                if other["metadata"].get("namespace") == one["metadata"]["namespace"]
            }
            missing = references(template["spec"]) - there
            assert missing <= external, name
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert all(name in guide for _, name in EXTERNAL)


@pytest.mark.parametrize("folder", WHOLE)
def test_selectors_find_their_pods_and_ports(objects_of: dict[str, list[Manifest]], folder: str) -> None:
    objects = objects_of[folder]
    templates = [template for _, template in pods_of(objects)]
    for one in objects:
        selector = one.get("spec", {}).get("selector")
        if not selector:
            continue
        selector = {"matchLabels": selector} if one["kind"] == "Service" else selector
        found = [each for each in templates if selects(selector, each["metadata"]["labels"])]
        assert len(found) == 1, one["metadata"]
        if one["kind"] == "Service":
            ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
    assert of_kind(objects, "Service")


@pytest.mark.parametrize("folder", [*WHOLE, "jobs/mlflow-db-upgrade"])
def test_pods_of_the_tracking_namespace_talk_only_to_whom_a_policy_names(
    objects_of: dict[str, list[Manifest]], folder: str
) -> None:
    # The Job is applied in addition to an overlay, whose policies apply to it too.
    policies = of_kind([*objects_of["overlays/production"], *objects_of[folder]], "NetworkPolicy")
    denial = next(one for one in policies if one["metadata"]["name"] == "deny-by-default")
    assert denial["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(denial["spec"])
    for name, template in pods_of(objects_of[folder]):
        assert selects(denial["spec"]["podSelector"], template["metadata"]["labels"]), name
    for policy in of_kind(objects_of[folder], "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"] and rule["ports"], policy["metadata"]
        for rule in policy["spec"].get("egress", []):
            assert rule["ports"], policy["metadata"]


def test_local_mlflow_reaches_its_own_stores_and_nothing_else(objects_of: dict[str, list[Manifest]]) -> None:
    objects = objects_of["overlays/local"]
    reached = {}
    for rule in find(objects, "NetworkPolicy", "mlflow")["spec"]["egress"]:
        for peer in rule["to"]:
            labels = peer.get("podSelector", {}).get("matchLabels") or peer["namespaceSelector"]["matchLabels"]
            reached[next(iter(labels.values()))] = [port["port"] for port in rule["ports"]]
    assert reached == {"kube-system": [53, 53], "postgres": [5432], "seaweedfs": [8333]}
    for name, port in (("postgres", 5432), ("seaweedfs", 8333)):
        assert find(objects, "Service", name)["spec"]["ports"][0]["port"] == port


def test_the_runs_account_has_no_more_rights_than_kfp_needs(objects_of: dict[str, list[Manifest]]) -> None:
    for folder, namespace in (("overlays/local", "kubeflow"), ("overlays/production", "deepsynth")):
        objects = objects_of[folder]
        (role,) = of_kind(objects, "Role")
        (binding,) = of_kind(objects, "RoleBinding")
        assert not of_kind(objects, "ClusterRole") + of_kind(objects, "ClusterRoleBinding")
        assert "*" not in str(role["rules"])
        verbs = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
        assert verbs == {
            "workflowtaskresults": ["create", "patch"],
            "pods": ["get", "list", "watch"],
            "configmaps": ["get"],
            "secrets": ["get"],
        }
        named = {rule["resources"][0]: rule.get("resourceNames") for rule in role["rules"]}
        assert named["secrets"] == ["mlpipeline-minio-artifact"]
        assert named["configmaps"] == ["kfp-launcher"]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        account = find(objects, "ServiceAccount", "deepsynth-pipeline")["metadata"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        ]
        assert {one["metadata"]["namespace"] for one in (role, binding)} | {account["namespace"]} == {namespace}


def test_the_check_of_the_volumes_runs_as_a_step_does(objects_of: dict[str, list[Manifest]]) -> None:
    jobs = {
        name: find(objects_of["base/runs"], "Job", f"deepsynth-volume-{name}")["spec"]["template"]["spec"]
        for name in ("permissions", "check")
    }
    given, check = jobs["permissions"]["securityContext"], jobs["check"]["securityContext"]
    assert given["fsGroup"] == 10001
    # KFP gives a step's pod no fsGroup; a check with one would prove nothing.
    assert {key for key in check if "roup" in key} == {"runAsGroup"}
    assert jobs["permissions"]["volumes"] == jobs["check"]["volumes"]


@pytest.mark.parametrize("name", ["permissions", "check"])
def test_the_volumes_jobs_fail_where_one_of_them_cannot_be_written(
    objects_of: dict[str, list[Manifest]], tmp_path: Path, name: str
) -> None:
    job = find(objects_of["base/runs"], "Job", f"deepsynth-volume-{name}")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    results = {}
    for missing in (None, "/checkpoints", "/cache"):
        root = tmp_path / (missing or "none").strip("/")
        for mount in mounts - {missing}:
            (root / mount.strip("/")).mkdir(parents=True)
        here = re.sub(r"(?<=[ ])(?=/c)", str(root), script)
        variables = {**os.environ, "SECONDS_TO_WAIT": "1"}
        done = subprocess.run([*container["command"], here], capture_output=True, text=True, timeout=300, env=variables)
        results[missing] = (done.returncode == 0, f"touch: cannot touch '{root}{missing}/.writable'" in done.stderr)
        assert not list(root.rglob(".writable"))
    assert results == {None: (True, False), "/checkpoints": (False, True), "/cache": (False, True)}


@pytest.mark.parametrize("name", ["local", "production"])
def test_an_environment_names_what_its_overlay_makes(objects_of: dict[str, list[Manifest]], name: str) -> None:
    environment = read_environment(ROOT / "manifests" / "environments" / f"{name}.yaml")
    objects = objects_of[f"overlays/{name}"]
    there = {(one["kind"], one["metadata"]["name"]): one["metadata"].get("namespace") for one in objects}
    assert there["ServiceAccount", environment.service_account] == environment.namespace
    for volume in (environment.checkpoints, environment.cache):
        assert volume and there["PersistentVolumeClaim", volume.claim] == environment.namespace
    policy = find(objects, "NetworkPolicy", "mlflow")
    (steps, _) = policy["spec"]["ingress"][0]["from"]
    assert selects(steps["namespaceSelector"], {"kubernetes.io/metadata.name": environment.namespace})
    address = re.fullmatch(r"http://([^/]+)", environment.mlflow_tracking_uri or "")
    assert address and address[1] in allowed_hosts(objects)
    # KFP itself sets everything else that the standard `restricted` requires of a step's container.
    assert environment.security_context.run_as_non_root is True


def allowed_hosts(objects: list[Manifest]) -> list[str]:
    (server,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].startswith("mlflow-server")]
    return server["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_the_ingress_adds_its_host_to_those_that_mlflow_answers(objects_of: dict[str, list[Manifest]]) -> None:
    objects = objects_of["with-components"]
    container = find(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    values = {one["name"]: one.get("value") for one in container["env"]}
    (host,) = {rule["host"] for rule in find(objects, "Ingress", "mlflow")["spec"]["rules"]}
    assert values["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",") == [*allowed_hosts(objects), host]
    assert values["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"https://{host}"
    assert find(objects, "Ingress", "mlflow")["spec"]["tls"][0]["hosts"] == [host]


def test_the_namespace_is_restricted_but_where_kubeflow_has_pods_in_it(objects_of: dict[str, list[Manifest]]) -> None:
    levels = {}
    for folder in WHOLE:
        labels = find(objects_of[folder], "Namespace", "deepsynth")["metadata"]["labels"]
        levels[folder] = [labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")]
    assert levels == {
        "overlays/local": ["restricted"] * 3,
        "overlays/production": ["restricted"] * 3,
        "with-components": ["baseline", "restricted", "restricted"],
    }


def test_no_password_is_in_the_repository(objects_of: dict[str, list[Manifest]]) -> None:
    assert not of_kind(objects_of["overlays/production"], "Secret")
    listed = files_of_the_repository()
    assert [path for path in listed if path.endswith(".env")] == ["manifests/base/mlflow/server.env"]
    for path in listed:
        if path.endswith(".env.example"):
            for line in (ROOT / path).read_text().split():
                assert "example-only" in line, path


def test_make_manifests_names_the_built_images(objects_of: dict[str, list[Manifest]]) -> None:
    for folder in ("build/local", "build/production"):
        images = {
            container["image"]
            for _, template in pods_of(objects_of[folder])
            for container in template["spec"]["containers"]
        }
        ours = {image for image in images if "deepsynth" in image}
        names = ("deepsynth-mlflow", "deepsynth-pipelines-python")
        assert ours == {f"ghcr.io/me/{name}:1.2.3-ab" for name in names}


def test_make_local_secrets_writes_them_once(tmp_path: Path) -> None:
    folder = tmp_path / "manifests" / "overlays" / "local"
    folder.mkdir(parents=True)
    command = ["make", "--silent", "--file", str(ROOT / "Makefile"), "local-secrets"]
    written = []
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=3000)
        written.append({path.name: path.read_text() for path in sorted(folder.iterdir())})
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    assert written[0] == written[1]
    assert {f"{name}.example" for name in written[0]} == {
        path.name for path in (ROOT / "manifests" / "overlays" / "local").glob("*.env.example")
    }
    values = dict(line.split("=", 1) for text in written[0].values() for line in text.split())
    assert values["MLFLOW_BACKEND_STORE_URI"] == (
        f"postgresql+psycopg2://mlflow:{values['POSTGRES_PASSWORD']}@postgres:5432/mlflow"
    )
    assert len(values["POSTGRES_PASSWORD"]) >= 32 and values["POSTGRES_PASSWORD"] != values["AWS_SECRET_ACCESS_KEY"]
