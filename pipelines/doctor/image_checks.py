"""The steps' images: on a node already, or in a registry that this machine can ask."""

from collections.abc import Iterator
from typing import Any

import urllib3

from pipelines.definition.environment import Environment
from pipelines.doctor.finding import Finding

# A kubelet reports at most 50 images of its node (nodeStatusMaxImages).
_MOST_REPORTED = 50
_MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_SECONDS_TO_ANSWER = 10


def image_findings(nodes: list[dict[str, Any]], environment: Environment) -> Iterator[Finding]:
    """Yield one line for each image of the steps."""
    for image in dict.fromkeys((environment.image, environment.gpu_image)):
        having = [node for node in nodes if _has(node, image)]
        if having:
            yield Finding("ok", f"image {image}", f"on {len(having)} of {len(nodes)} nodes")
        elif environment.image_pull_policy == "Never":
            yield _never_pulled(image, nodes)
        else:
            yield _in_registry(image, environment)


def _has(node: dict[str, Any], image: str) -> bool:
    names = {name for one in node.get("status", {}).get("images") or [] for name in one.get("names") or []}
    return bool({image, f"docker.io/{image}", f"docker.io/library/{image}"} & names)


def _never_pulled(image: str, nodes: list[dict[str, Any]]) -> Finding:
    mend = "load it into the nodes (kind load docker-image), with this tag"
    detail = "on no node, and image_pull_policy is Never"
    if any(len(node.get("status", {}).get("images") or []) >= _MOST_REPORTED for node in nodes):
        return Finding("unknown", f"image {image}", f"{detail}; nodes report {_MOST_REPORTED} images at most", mend)
    return Finding("fault", f"image {image}", detail, mend)


def _in_registry(image: str, environment: Environment) -> Finding:
    subject = f"image {image}"
    host = environment.registry.partition("/")[0]
    if "." not in host and ":" not in host:
        return Finding("unknown", subject, "on no node yet, and its registry is not asked from here")
    name, _, tag = image.removeprefix(f"{host}/").rpartition(":")
    try:
        http = urllib3.PoolManager(timeout=_SECONDS_TO_ANSWER, retries=False)
        status = http.request(
            "HEAD", f"https://{host}/v2/{name}/manifests/{tag}", headers={"Accept": _MANIFESTS}
        ).status
    except urllib3.exceptions.HTTPError:
        return Finding("unknown", subject, f"on no node yet, and {host} does not answer from here")
    if status == 200:
        return Finding("ok", subject, f"in {host}")
    if status == 404:
        mend = "build and push it (make images, make push-images), or correct registry and tag in the environment"
        return Finding("fault", subject, f"{host} does not have it", mend)
    secrets = ", ".join(environment.image_pull_secrets) or "no image_pull_secrets in the environment"
    return Finding("unknown", subject, f"{host} wants a login ({status}); the nodes use {secrets}")
