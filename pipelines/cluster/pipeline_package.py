"""Compile the pipeline of this code for an environment: to a file, or to a pipeline version in KFP."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_server_api import V2beta1Pipeline

from components.shared.artifacts.output_folder import scratch_folder
from components.shared.digests import sha256_file
from pipelines.cluster.kfp_api import KfpApi
from pipelines.definition.environment import PIPELINE_NAME, Environment

_DIGEST = "package sha256 "
_DIGITS = 8


@dataclass(frozen=True)
class UploadedVersion:
    """A version of the pipeline in KFP."""

    pipeline_id: str
    version_id: str
    name: str
    reused: bool


def write_package(
    path: Path, environment: Environment | None, prepare_partitions: int, *, cache: bool = True, **manifest: Any
) -> None:
    """Compile the pipeline into ``path`` (.yaml); ``manifest`` holds the compiler's options for Kubernetes objects."""
    from kfp.compiler import Compiler

    from pipelines.definition.finetune import finetune_pipeline

    pipeline = finetune_pipeline(prepare_partitions, environment=environment, cache=cache)
    Compiler().compile(pipeline, str(path), **manifest)


def upload(api: KfpApi, environment: Environment, prepare_partitions: int, *, cache: bool = True) -> UploadedVersion:
    """Upload this code as a version of the pipeline, named by the images' tag; reuse an equal version.

    If the tag's version has other content (another environment or number of partitions, no ``cache``, changed code),
    the new version's name also has its digest.

    Raises:
        UserError: the server refuses, or the images' tag is unknown.
    """
    with scratch_folder("deepsynth-upload") as scratch:
        path = scratch / f"{PIPELINE_NAME}.yaml"
        write_package(path, environment, prepare_partitions, cache=cache)
        digest = sha256_file(path)
        pipeline_id = _pipeline(api) or _new_pipeline(api)
        name, found = _version(api, pipeline_id, environment, digest)
        version = found or api.call(
            "pipeline_uploads",
            "upload_pipeline_version",
            uploadfile=str(path),
            name=name,
            display_name=name,
            pipelineid=pipeline_id,
            description=f"{_DIGEST}{digest}",
        )
        return UploadedVersion(pipeline_id, version.pipeline_version_id, name, reused=found is not None)


def planned_version(
    api: KfpApi, environment: Environment, prepare_partitions: int, *, cache: bool = True
) -> tuple[str, bool]:
    """Return the name of the version that ``upload`` would give, and whether the server has it; nothing is uploaded."""
    with scratch_folder("deepsynth-upload") as scratch:
        path = scratch / f"{PIPELINE_NAME}.yaml"
        write_package(path, environment, prepare_partitions, cache=cache)
        pipeline_id = _pipeline(api)
        if pipeline_id is None:
            return environment.version, False
        name, found = _version(api, pipeline_id, environment, sha256_file(path))
        return name, found is not None


def _version(api: KfpApi, pipeline_id: str, environment: Environment, digest: str) -> tuple[str, Any]:
    """Return the name of the version with this digest, and the version, or None if the server lacks it."""
    plain, with_digest = environment.version, f"{environment.version}-{digest[:_DIGITS]}"
    found = _versions(api, pipeline_id, plain)
    if not found or digest in (found[0].description or ""):
        return plain, found[0] if found else None
    other = _versions(api, pipeline_id, with_digest)
    return with_digest, other[0] if other else None


def _versions(api: KfpApi, pipeline_id: str, name: str) -> list[Any]:
    method = "pipeline_service_list_pipeline_versions"
    return api.named("pipelines", method, "pipeline_versions", name, pipeline_id=pipeline_id)


def _pipeline(api: KfpApi) -> str | None:
    """Return the pipeline's id, or None if it does not exist."""
    where = {"namespace": api.namespace} if api.namespace else {}
    found = api.named("pipelines", "pipeline_service_list_pipelines", "pipelines", PIPELINE_NAME, **where)
    return str(found[0].pipeline_id) if found else None


def _new_pipeline(api: KfpApi) -> str:
    made = V2beta1Pipeline(display_name=PIPELINE_NAME, name=PIPELINE_NAME, namespace=api.namespace)
    return str(api.call("pipelines", "pipeline_service_create_pipeline", pipeline=made).pipeline_id)


def kubernetes_name(text: str) -> str:
    """Return ``text`` as a Kubernetes object's name: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-.")


def uncommitted_changes() -> bool:
    """Return whether this code's git tree has uncommitted changes; False outside a git tree."""
    try:
        answer = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return bool(answer.stdout.strip())
