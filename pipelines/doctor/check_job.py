"""The Jobs of ``deepsynth doctor``, with what KFP and the environment give to a step's pod."""

import json
from dataclasses import asdict
from typing import Any

from components.shared.tracking.artifact_transfer import direct_access
from components.shared.tracking.mlflow_connection import TRACKING_OFF
from pipelines.definition.environment import MLFLOW_CA_FILE, MLFLOW_CA_FOLDER, Environment
from pipelines.doctor.in_pod import ACCESS_KEY, SECRET_KEY
from pipelines.doctor.pipeline_root import Bucket

_SECONDS_TO_LIVE = 600
"""Of a Job that could not be removed, e.g. after a lost connection."""


def check_job(environment: Environment, bucket: Bucket | None) -> dict[str, Any]:
    """Return the Job that runs ``in_pod`` with the CPU image, the environment's volumes, variables and Secrets."""
    volumes = [one for one in (environment.checkpoints, environment.cache, *environment.volumes) if one]
    uri = environment.mlflow_tracking_uri
    request = {
        "volumes": {volume.claim: volume.mount_path for volume in volumes},
        "mlflow": uri if uri and uri.lower() != TRACKING_OFF else None,
        "bucket": asdict(bucket) if bucket else None,
    }
    container = _container(environment, environment.image, "-m", "pipelines.doctor.in_pod", json.dumps(request))
    container["env"] = _variables(environment, bucket)
    container["volumeMounts"] = [{"name": one.claim, "mountPath": one.mount_path} for one in volumes]
    mounted = [{"name": one.claim, "persistentVolumeClaim": {"claimName": one.claim}} for one in volumes]
    if environment.mlflow_ca:
        container["volumeMounts"].append({"name": "mlflow-ca", "mountPath": MLFLOW_CA_FOLDER})
        mounted.append({"name": "mlflow-ca", "configMap": {"name": environment.mlflow_ca}})
    return _job(environment, {"containers": [container], "volumes": mounted})


def start_job(environment: Environment) -> dict[str, Any]:
    """Return the Job that only starts Python in the GPU image, on a node for GPUs but without asking for one."""
    spec: dict[str, Any] = {"containers": [_container(environment, environment.gpu_image, "-c", "")]}
    spec["nodeSelector"] = dict(environment.gpu.node_selector)
    spec["tolerations"] = [one.model_dump(exclude_none=True) for one in environment.gpu.tolerations]
    return _job(environment, spec)


def _job(environment: Environment, spec: dict[str, Any]) -> dict[str, Any]:
    # pipeline/runid: MLflow's network policy admits the pods with this label.
    labels = {"app.kubernetes.io/part-of": "deepsynth", "pipeline/runid": "deepsynth-doctor"}
    spec |= {
        "restartPolicy": "Never",
        "serviceAccountName": environment.service_account,
        "imagePullSecrets": [{"name": name} for name in environment.image_pull_secrets],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "deepsynth-doctor-", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _SECONDS_TO_LIVE,
            "ttlSecondsAfterFinished": _SECONDS_TO_LIVE,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _container(environment: Environment, image: str, *arguments: str) -> dict[str, Any]:
    ours = environment.security_context
    identity = {
        "runAsUser": ours.run_as_user,
        "runAsGroup": ours.run_as_group,
        "runAsNonRoot": ours.run_as_non_root,
    }
    control = environment.resources.control
    requests = {"cpu": control.cpu_request, "memory": control.memory_request}
    limits = {"cpu": control.cpu_limit, "memory": control.memory_limit}
    return {
        "name": "main",
        "image": image,
        "imagePullPolicy": environment.image_pull_policy,
        "command": ["python3", *arguments],
        "resources": {"requests": _given(requests), "limits": _given(limits)},
        # What KFP 2.17 sets on a step's container, with the environment's own settings.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            **_given(identity),
        },
    }


def _variables(environment: Environment, bucket: Bucket | None) -> list[dict[str, Any]]:
    plain = direct_access(environment.mlflow_direct_artifacts)
    if environment.mlflow_ca:
        plain |= {"MLFLOW_TRACKING_SERVER_CERT_PATH": MLFLOW_CA_FILE}
    plain |= environment.env
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    for secret in environment.secrets:
        for key, name in secret.keys.items():
            found.append(_from_secret(name, secret.name, key, secret.optional))
    if bucket and bucket.secret:
        found.append(_from_secret(ACCESS_KEY, bucket.secret, bucket.access_key, True))
        found.append(_from_secret(SECRET_KEY, bucket.secret, bucket.secret_key, True))
    return found


def _from_secret(variable: str, name: str, key: str, optional: bool) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": optional}}}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
