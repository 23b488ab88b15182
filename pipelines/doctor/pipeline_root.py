"""The bucket of KFP's artifacts, as its ConfigMap ``kfp-launcher`` or KFP's own defaults name it."""

from dataclasses import dataclass, replace
from typing import Any

from components.shared.programs.yaml_text import parsed_yaml
from pipelines.cluster.kubernetes_api import KubernetesApi, KubernetesRefusedError
from pipelines.doctor.finding import Finding

_SUBJECT = "KFP's bucket from a pod"


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket: its ``endpoint`` (host:port; empty: AWS), and the Secret's name and keys for its credentials."""

    name: str
    endpoint: str
    scheme: str
    region: str
    secret: str
    access_key: str
    secret_key: str


# KFP 2.17.0: DefaultEndpointInMultiUserMode in backend/src/v2/objectstore/config.go; tests/fixtures/cluster_records has
# the rest, as KFP recorded it for its runs.
_DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
_DEFAULT = Bucket(
    "mlpipeline", "seaweedfs.kubeflow:9000", "http", "minio", "mlpipeline-minio-artifact", "accesskey", "secretkey"
)


def bucket_of(api: KubernetesApi) -> Bucket | Finding:
    """Return the bucket of the namespace's pipeline root; a finding if a pod cannot check it from here."""
    try:
        settings = api.get(f"{api.in_namespace('configmaps')}/kfp-launcher").get("data") or {}
    except KubernetesRefusedError as error:
        if error.status != 404:
            return Finding("unknown", _SUBJECT, str(error))
        settings = {}
    root = str(settings.get("defaultPipelineRoot") or _DEFAULT_ROOT)
    provider, _, path = root.partition("://")
    name = path.partition("/")[0].partition("?")[0]
    given = _provider(str(settings.get("providers") or ""), provider)
    if provider == "minio" and given is None:
        return replace(_DEFAULT, name=name)
    secret = ((given or {}).get("credentials") or {}).get("secretRef")
    if given is None or not secret or provider not in ("minio", "s3"):
        return Finding("unknown", _SUBJECT, f"{root}: its credentials are not those of a Secret; a first run will tell")
    return Bucket(
        name,
        str(given.get("endpoint") or ""),
        "http" if given.get("disableSSL") else "https",
        str(given.get("region") or _DEFAULT.region),
        str(secret.get("secretName") or _DEFAULT.secret),
        str(secret.get("accessKeyKey") or _DEFAULT.access_key),
        str(secret.get("secretKeyKey") or _DEFAULT.secret_key),
    )


def _provider(text: str, name: str) -> dict[str, Any] | None:
    """Return the ``default`` settings of a provider in the ConfigMap's YAML text; None if there are none."""
    try:
        providers = parsed_yaml(text) or {}
        found = (providers.get(name) or {}).get("default")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) else None
