"""An environment's settings on the pipeline's tasks, through KFP and kfp-kubernetes."""

from typing import Any, Literal

from kfp import dsl, kubernetes

from components.shared.tracking.artifact_transfer import direct_access
from pipelines.definition.environment import MLFLOW_CA_FILE, MLFLOW_CA_FOLDER, Environment, Resources, Volume
from pipelines.task_side.persistent_folders import CHECKPOINTS_VARIABLE

Kind = Literal["control", "prepare", "gpu", "export"]
"""The kinds of tasks; see ``TaskResources``."""
# The label that KFP puts on each pod. An input would not do: from the cache it would be the id of an earlier run.
_RUN_ID_LABEL = "metadata.labels['pipeline/runid']"


def apply_settings(task: Any, kind: Kind, environment: Environment | None) -> None:
    """Give ``task`` the id of its pipeline run and all settings of the environment, if there is one."""
    kubernetes.use_field_path_as_env(task, env_name="KFP_RUN_ID", field_path=_RUN_ID_LABEL)
    if environment is None:
        return
    _use_image(task, kind, environment)
    _set_variables(task, kind, environment)
    _set_resources(task, getattr(environment.resources, kind))
    if kind == "gpu":
        _use_gpus(task, environment)
    for volume in environment.volumes:
        _mount(task, volume)
    if environment.cache and kind != "control":
        _mount(task, environment.cache)
    if environment.mlflow_ca:
        kubernetes.use_config_map_as_volume(task, environment.mlflow_ca, MLFLOW_CA_FOLDER)
    for secret in environment.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.keys, optional=secret.optional)
    context = environment.security_context.model_dump(exclude_none=True)
    if context:
        kubernetes.set_security_context(task, **context)


def retry(task: Any, environment: Environment | None) -> None:
    """Let KFP retry ``task``. It does not look at exit codes; Argo's settings decide which failures are retried."""
    if environment is None or environment.retries.num_retries == 0:
        return
    retries = environment.retries
    task.set_retry(
        num_retries=retries.num_retries,
        backoff_duration=retries.backoff_duration,
        backoff_factor=retries.backoff_factor,
        backoff_max_duration=retries.backoff_max_duration,
    )


def keep_checkpoints(task: Any, environment: Environment | None, *, mounted: bool = True) -> None:
    """Tell ``task`` where checkpoints are kept, so that a retried training finds them on any node.

    Configure gets the path without the volume (``mounted`` false): it checks settings that need a checkpoint folder.
    """
    if environment is None or environment.checkpoints is None:
        return
    if mounted:
        _mount(task, environment.checkpoints)
    task.set_env_variable(CHECKPOINTS_VARIABLE, environment.checkpoints.mount_path)


def pipeline_limits(environment: Environment | None) -> dsl.PipelineConfig:
    """Return how long a run may take and how long its objects are kept."""
    return dsl.PipelineConfig(**environment.limits.model_dump() if environment else {})


def _use_image(task: Any, kind: Kind, environment: Environment) -> None:
    task.set_container_image(environment.gpu_image if kind == "gpu" else environment.image)
    kubernetes.set_image_pull_policy(task, environment.image_pull_policy)
    if environment.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, environment.image_pull_secrets)


def _set_variables(task: Any, kind: Kind, environment: Environment) -> None:
    variables = {
        "MLFLOW_TRACKING_URI": environment.mlflow_tracking_uri,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": MLFLOW_CA_FILE if environment.mlflow_ca else None,
        "MLFLOW_EXPERIMENT_NAME": environment.mlflow_experiment,
        "OTEL_EXPORTER_OTLP_ENDPOINT": environment.otlp_endpoint,
        "DEEPSYNTH_LOG": environment.log_format,
        **direct_access(environment.mlflow_direct_artifacts),
    }
    if environment.cache and kind != "control":
        folder = environment.cache.mount_path
        variables |= {"HF_HOME": f"{folder}/huggingface", "XDG_CACHE_HOME": folder}
    for name, value in (variables | environment.env).items():
        if value is not None:
            task.set_env_variable(name, value)


def _set_resources(task: Any, resources: Resources) -> None:
    for setter, value in (
        (task.set_cpu_request, resources.cpu_request),
        (task.set_cpu_limit, resources.cpu_limit),
        (task.set_memory_request, resources.memory_request),
        (task.set_memory_limit, resources.memory_limit),
    ):
        if value is not None:
            setter(value)
    if resources.timeout_seconds:
        kubernetes.set_timeout(task, resources.timeout_seconds)


def _use_gpus(task: Any, environment: Environment) -> None:
    gpu = environment.gpu
    if environment.shared_memory:
        # Data workers and NCCL use it to pass data; the default in a container is 64 MiB.
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=environment.shared_memory)
    if gpu.count == 0:
        return
    task.set_accelerator_type(gpu.resource).set_accelerator_limit(gpu.count)
    for label, value in gpu.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in gpu.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())


def _mount(task: Any, volume: Volume) -> None:
    kubernetes.mount_pvc(task, volume.claim, volume.mount_path)
