"""This machine's Docker engine: whether it answers, what it supports, and which of the project's images it has."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.versions import code_tag, git_commit, tool_version
from pipelines.definition.environment import CPU_IMAGE, GPU_IMAGE

_OPTION = "--runner docker"
_SOCKET = "unix:///var/run/docker.sock"
_VERSION_LABEL = "org.opencontainers.image.version"
_COMMIT_LABEL = "org.opencontainers.image.revision"


@dataclass(frozen=True)
class StepImages:
    """The images that the steps run in; both are on this machine."""

    cpu: str
    gpu: str
    """for train, evaluate and benchmark; equal to ``cpu`` without a GPU or a GPU image"""
    gpus: bool
    """containers get the machine's GPUs"""
    warnings: list[str]


def connected_engine() -> Any:
    """Return a ``docker.DockerClient`` for the engine named by DOCKER_HOST or the ``docker`` program's context.

    Raises:
        UserError: there is no engine, no permission to use it, or no answer.
    """
    import docker

    host = os.environ.get("DOCKER_HOST") or docker.ContextAPI.get_current_context().Host or _SOCKET
    # KFP's runner reads the variable and ignores contexts.
    os.environ["DOCKER_HOST"] = host
    if host.startswith("unix://"):
        _check_socket(Path(host.removeprefix("unix://")))
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        raise UserError(
            f"the Docker engine at {host} does not answer ({error})", where=_OPTION, mend="start it, or set DOCKER_HOST"
        ) from error
    return client


def _check_socket(socket: Path) -> None:
    if not os.access(socket.parent, os.X_OK) or (socket.exists() and not os.access(socket, os.R_OK | os.W_OK)):
        raise UserError(
            f"no permission to use the Docker engine's socket {socket}",
            where=_OPTION,
            mend=f"join its group (as root: usermod --append --groups docker {os.environ.get('USER') or 'NAME'}) "
            "and log in again",
        )
    if not socket.exists():
        raise UserError(
            f"no Docker engine is running: there is no {socket}",
            where=_OPTION,
            mend="start it (as root: systemctl start docker), or set DOCKER_HOST",
        )


def step_images(client: Any, given: str | None) -> StepImages:
    """Return the steps' images: ``given``, or those that ``make images`` built from this code.

    Raises:
        UserError: an image has no tag, is not on this machine, or was built from another version.
    """
    gpus, warnings = _gpus(client)
    if given:
        _check_tag(given)
    image = given or f"{CPU_IMAGE}:{code_tag()}"
    warnings += _checked(client, image)
    gpu_image = image
    if gpus and not given:
        named = f"{GPU_IMAGE}:{code_tag()}"
        if _labels(client, named) is None:
            warnings.append(
                f"this machine has a GPU but no image {named}: all steps run on the CPU (make image-cuda builds it)"
            )
        else:
            warnings += _checked(client, named)
            gpu_image = named
    return StepImages(image, gpu_image, gpus, warnings)


def _check_tag(image: str) -> None:
    name = image.rpartition("/")[2]
    if "@" not in name and (":" not in name or name.endswith(":latest")):
        raise UserError(
            "needs a tag that names the code in it, not latest",
            where=f"--image {image}",
            mend=f"for example {image.removesuffix(':latest')}:{tool_version()}-abc123",
        )


def _checked(client: Any, image: str) -> list[str]:
    """Return warnings about an image of this version, which may be from another commit."""
    labels = _labels(client, image)
    if labels is None:
        raise UserError("no such image on this machine", where=f"{_OPTION}: {image}", mend="build it with: make images")
    version = labels.get(_VERSION_LABEL)
    if version != tool_version():
        raise UserError(
            f"the image holds version {version or 'unknown'} of this project, and this is {tool_version()}",
            where=f"{_OPTION}: {image}",
            mend="build it from this code with: make images",
        )
    commit, own = labels.get(_COMMIT_LABEL), git_commit()
    if commit and own and commit != own:
        return [f"{image} was built from commit {commit[:12]}, this code is {own[:12]}: the steps run the image's code"]
    return []


def _labels(client: Any, image: str) -> dict[str, str] | None:
    import docker

    try:
        return client.images.get(image).labels or {}
    except docker.errors.ImageNotFound:
        return None


def _gpus(client: Any) -> tuple[bool, list[str]]:
    """Return whether containers can use GPUs, and a warning if the machine has one that they cannot use."""
    if not Path("/dev/nvidiactl").exists():
        return False, []
    if "nvidia" in client.info().get("Runtimes", {}) or shutil.which("nvidia-container-runtime-hook"):
        return True, []
    return False, [
        "this machine has a GPU, but Docker cannot use it: install the NVIDIA Container Toolkit; "
        "all steps run on the CPU"
    ]
