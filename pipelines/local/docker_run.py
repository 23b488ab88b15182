"""``deepsynth run --runner docker``: what one run's containers get."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from huggingface_hub import constants

from components.shared.errors import UserError
from pipelines.local.docker_containers import RUN_LABEL, RunContainers
from pipelines.local.docker_engine import StepImages, connected_engine, step_images
from pipelines.local.docker_mounts import mounts, with_home_expanded
from pipelines.task_side.persistent_folders import CHECKPOINTS_VARIABLE

# The variables of this machine that steps read; not DEEPSYNTH_GIT_COMMIT, which the image sets.
_PASSED_ON = (
    "CUDA_VISIBLE_DEVICES",  # containers get all devices, so its numbers stay valid
    *("HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TOKENIZERS_", "MLFLOW_", "OTEL_", "AWS_", "GOOGLE_APPLICATION_"),
    *("DEEPSYNTH_LOG", CHECKPOINTS_VARIABLE, "UNSLOTH_", "TORCH_", "PYTORCH_", "OMP_", "MKL_", "NCCL_", "TRACEPARENT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "TZ"),
)
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")


@dataclass(frozen=True)
class DockerRun:
    """The images and containers of one run."""

    images: StepImages
    containers: RunContainers
    label: str
    runs_dir: Path
    """the folder of all runs"""

    def job(self, config: Mapping[str, Any], root: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the container settings for ``pipelines.local.local_run``, as JSON values.

        Args:
            config: the pipeline's configuration as JSON values.
            root: KFP's pipeline root, which holds the run's checkpoints.
            variables: variables of this run's steps, besides the user's own.
        """
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        environment.setdefault(CHECKPOINTS_VARIABLE, str(root / "checkpoints"))
        environment |= {"HF_HOME": constants.HF_HOME, **variables}
        seen = mounts(config, self.runs_dir, variables["MLFLOW_TRACKING_URI"], environment)
        arguments: dict[str, Any] = {
            "user": f"{os.getuid()}:{os.getgid()}",
            "group_add": [str(group) for group in os.getgroups()],
            "working_dir": str(Path.cwd()),
            # Linux' own default for /dev/shm; memory is allocated on use.
            "shm_size": psutil.virtual_memory().total // 2,
            "security_opt": ["no-new-privileges"],
            "labels": {RUN_LABEL: self.label},
            "environment": environment,
        }
        arguments |= self.containers.engine_arguments()
        if any(_is_loopback(value) for value in environment.values()):
            arguments["network_mode"] = "host"
        return {"arguments": arguments, "mounts": seen, "gpus": self.images.gpus}

    def variables(self) -> dict[str, str]:
        """Return the variables of the process that compiles the pipeline."""
        return {"DEEPSYNTH_IMAGE": self.images.cpu, "DEEPSYNTH_GPU_IMAGE": self.images.gpu}


def docker_run(run_id: str, runs_dir: Path, image: str | None) -> DockerRun:
    """Return a run's images and containers.

    Raises:
        UserError: no engine, no permission to use it, an image is missing or of another version, or the folder's name
            cannot be mounted.
    """
    if ":" in str(runs_dir):
        raise UserError("Docker cannot mount a folder with a colon in its name", where=f"--runs-dir {runs_dir}")
    client = connected_engine()
    # Another folder may hold a run of this name.
    label = f"{run_id}-{uuid.uuid4().hex}"
    return DockerRun(step_images(client, image), RunContainers(client, label), label, runs_dir)


def configuration(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with paths that are valid inside a container."""
    expanded: dict[str, Any] = with_home_expanded(config)
    return expanded


def _is_loopback(value: str) -> bool:
    return "://" in value and (urlsplit(value).hostname or "").startswith(_LOOPBACK)
