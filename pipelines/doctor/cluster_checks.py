"""Kubernetes: the account and its rights, volumes, Pod Security, nodes, images, and what KFP's Deployment allows."""

from collections.abc import Callable, Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from pipelines.cluster.kubernetes_api import (
    KubernetesApi,
    KubernetesRefusedError,
    KubernetesUnreachableError,
    connect_kubernetes,
)
from pipelines.definition.environment import Environment
from pipelines.doctor.finding import Finding
from pipelines.doctor.image_checks import image_findings

# What manifests/base/runs/service-account.yaml grants: verb, API group, resource, name.
_ACCOUNT_RIGHTS = (
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("get", "", "pods", ""),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "secrets", "mlpipeline-minio-artifact"),
)
# What follow, logs and this command read.
_OWN_RIGHTS = (("list", "", "pods", ""), ("get", "", "pods/log", ""), ("list", "", "events", ""))
_APPLY = "apply the overlay in this namespace: kubectl apply -k build/manifests/NAME"
_ENFORCE = "pod-security.kubernetes.io/enforce"


def cluster_findings(environment: Environment) -> Iterator[Finding]:
    """Yield what Kubernetes says; one line if it cannot be reached, and one for each thing that may not be read."""
    try:
        api = connect_kubernetes(environment.namespace)
        api.get("/version")
    except (KubernetesUnreachableError, KubernetesRefusedError) as error:
        mend = "set KUBECONFIG to a file for this cluster; account, volumes, images, GPUs and Pod Security stay unknown"
        yield Finding("unknown", "Kubernetes", str(error), mend)
        return
    checks: tuple[tuple[str, Callable[[KubernetesApi, Environment], Iterator[Finding]]], ...] = (
        ("namespace", _namespace),
        ("service account", _account),
        ("rights", _rights),
        ("allowed accounts", _allowed_accounts),
        ("volumes", _volumes),
        ("nodes", _nodes),
    )
    for subject, check in checks:
        try:
            yield from check(api, environment)
        except KubernetesRefusedError as error:
            yield Finding("unknown", subject, str(error))
        except KubernetesUnreachableError as error:
            yield Finding("unknown", "Kubernetes", str(error))
            return


def _namespace(api: KubernetesApi, environment: Environment) -> Iterator[Finding]:
    found = _existing(api, f"/api/v1/namespaces/{api.namespace}")
    if found is None:
        yield Finding("fault", "namespace", f"{api.namespace} does not exist", "correct namespace in the environment")
        return
    level = (found["metadata"].get("labels") or {}).get(_ENFORCE, "none")
    if level == "restricted" and not environment.security_context.run_as_non_root:
        mend = "set security_context.run_as_non_root: true in the environment"
        yield Finding("fault", "Pod Security", f"{api.namespace} enforces restricted", mend)
    else:
        yield Finding("ok", "Pod Security", f"{api.namespace} enforces {level}")


def _account(api: KubernetesApi, environment: Environment) -> Iterator[Finding]:
    name = environment.service_account
    if _existing(api, f"{api.in_namespace('serviceaccounts')}/{name}") is None:
        yield Finding("fault", "service account", f"{name} does not exist in {api.namespace}", _APPLY)
        return
    user = f"system:serviceaccount:{api.namespace}:{name}"
    missing = [right for right in _ACCOUNT_RIGHTS if not _allowed(api, right, user)]
    if missing:
        yield Finding("fault", "service account", f"{name} may not {_in_words(missing)}", _APPLY)
    else:
        yield Finding("ok", "service account", f"{name} has the rights that a run needs")


def _rights(api: KubernetesApi, _: Environment) -> Iterator[Finding]:
    missing = [right for right in _OWN_RIGHTS if not _allowed(api, right, None)]
    if missing:
        mend = "follow and logs then know less: ask the cluster's admin"
        yield Finding("fault", "your rights", f"you may not {_in_words(missing)} in {api.namespace}", mend)
    else:
        yield Finding("ok", "your rights", "you may read pods, their logs and events")


def _allowed_accounts(api: KubernetesApi, environment: Environment) -> Iterator[Finding]:
    for namespace in dict.fromkeys((api.namespace, "kubeflow")):
        deployment = _existing(api, f"/apis/apps/v1/namespaces/{namespace}/deployments/ml-pipeline")
        if deployment is None:
            continue
        containers = deployment["spec"]["template"]["spec"]["containers"]
        values = {one["name"]: one.get("value", "") for container in containers for one in container.get("env", [])}
        allowed = [name.strip() for name in values.get("ALLOWEDSERVICEACCOUNTS", "").split(",") if name.strip()]
        mend = (
            f"kubectl set env --namespace {namespace} deployment/ml-pipeline"
            f" ALLOWEDSERVICEACCOUNTS={','.join([*allowed, environment.service_account])}"
        )
        if environment.service_account in allowed:
            yield Finding("ok", "allowed accounts", f"ALLOWEDSERVICEACCOUNTS names {environment.service_account}")
        elif allowed:
            detail = f"ALLOWEDSERVICEACCOUNTS does not name {environment.service_account}"
            yield Finding("fault", "allowed accounts", detail, mend)
        else:
            detail = "ALLOWEDSERVICEACCOUNTS is not set; KFP releases since August 2026 then refuse this account"
            yield Finding("unknown", "allowed accounts", detail, mend)
        return
    yield Finding("unknown", "allowed accounts", f"no Deployment ml-pipeline in {api.namespace} or kubeflow")


def _volumes(api: KubernetesApi, environment: Environment) -> Iterator[Finding]:
    for volume in filter(None, (environment.checkpoints, environment.cache, *environment.volumes)):
        claim = _existing(api, f"{api.in_namespace('persistentvolumeclaims')}/{volume.claim}")
        subject = f"volume {volume.claim}"
        if claim is None:
            mend = f"{_APPLY}, or correct the claim in the environment"
            yield Finding("fault", subject, f"the claim does not exist in {api.namespace}", mend)
            continue
        phase = claim.get("status", {}).get("phase", "unknown")
        modes = ", ".join(claim.get("status", {}).get("accessModes") or claim["spec"].get("accessModes") or [])
        if phase == "Bound":
            yield Finding("ok", subject, f"bound, {modes}")
        elif phase == "Pending":
            mend = f"see why with: kubectl describe pvc {volume.claim} --namespace {api.namespace}"
            yield Finding("unknown", subject, "pending: it may wait for its first pod, or for a storage class", mend)
        else:
            yield Finding("fault", subject, f"its phase is {phase}", "make the claim anew")


def _nodes(api: KubernetesApi, environment: Environment) -> Iterator[Finding]:
    nodes = list(api.get("/api/v1/nodes").get("items") or [])
    yield from _requests(nodes, environment)
    yield from _gpus(nodes, environment)
    yield from image_findings(nodes, environment)


def _requests(nodes: list[dict[str, Any]], environment: Environment) -> Iterator[Finding]:
    for kind in type(environment.resources).model_fields:
        resources = getattr(environment.resources, kind)
        wanted = {"cpu": resources.cpu_request, "memory": resources.memory_request}
        asked = {name: value for name, value in wanted.items() if value}
        if asked and not any(_has(node, asked) for node in nodes):
            words = " and ".join(f"{value} {name}" for name, value in asked.items())
            mend = f"lower resources.{kind}.cpu_request or memory_request, or add a larger node"
            yield Finding("fault", f"room for resources.{kind}", f"no node has {words} in all", mend)
        elif asked:
            yield Finding("ok", f"room for resources.{kind}", "a node is large enough")


def _gpus(nodes: list[dict[str, Any]], environment: Environment) -> Iterator[Finding]:
    gpu = environment.gpu
    if gpu.count == 0:
        return
    chosen = [node for node in nodes if gpu.node_selector.items() <= (node["metadata"].get("labels") or {}).items()]
    if not chosen:
        yield Finding("fault", "GPUs", f"no node has the labels {gpu.node_selector}", "correct gpu.node_selector")
    elif any(_has(node, {gpu.resource: str(gpu.count)}) for node in chosen):
        yield Finding("ok", "GPUs", f"a node has {gpu.count} {gpu.resource}; others may use them now")
    else:
        mend = "install the device plugin, add nodes, or lower gpu.count (0: the CPU)"
        yield Finding("fault", "GPUs", f"no node has {gpu.count} {gpu.resource} allocatable", mend)


def _has(node: dict[str, Any], wanted: dict[str, str]) -> bool:
    there = node.get("status", {}).get("allocatable") or {}
    return all(name in there and parse_quantity(there[name]) >= parse_quantity(value) for name, value in wanted.items())


def _existing(api: KubernetesApi, path: str) -> dict[str, Any] | None:
    try:
        return api.get(path)
    except KubernetesRefusedError as error:
        if error.status == 404:
            return None
        raise


def _allowed(api: KubernetesApi, right: tuple[str, str, str, str], user: str | None) -> bool:
    """Ask with SelfSubjectAccessReview for oneself, with SubjectAccessReview for the steps' account."""
    verb, group, resource, name = right
    resource, _, subresource = resource.partition("/")
    attributes = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource}
    attributes |= {"subresource": subresource, "name": name}
    kind = "SubjectAccessReview" if user else "SelfSubjectAccessReview"
    spec: dict[str, Any] = {"resourceAttributes": {key: value for key, value in attributes.items() if value}}
    if user:
        spec["user"] = user
        spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{api.namespace}", "system:authenticated"]
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = api.post(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body)
    return bool(answer.get("status", {}).get("allowed"))


def _in_words(rights: list[tuple[str, str, str, str]]) -> str:
    return ", ".join(f"{verb} {resource}{f' {name}' if name else ''}" for verb, _, resource, name in rights)
