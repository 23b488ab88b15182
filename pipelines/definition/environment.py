"""One small YAML file per environment: where the pipeline runs, and what its tasks get from Kubernetes.

Start from a copy of ``manifests/environments/production.yaml``. Each field names the Kubernetes setting that it sets;
``pipelines/definition/kubernetes_settings.py`` applies them. Everything that differs between clusters belongs in that
YAML file, never in code.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from components.shared.programs.step_config import StepConfig, read_config_file, validated
from components.shared.versions import code_tag

PIPELINE_NAME = "deepsynth-finetune"
CPU_IMAGE = "deepsynth-pipelines-python"
GPU_IMAGE = "deepsynth-pipelines-python-cuda"
IMAGE_USER = 10001  # user and group of the images and of the volumes that manifests/ makes
MLFLOW_CA_FOLDER = "/etc/deepsynth/mlflow-ca"
MLFLOW_CA_FILE = f"{MLFLOW_CA_FOLDER}/ca.crt"
_IN_IMAGE_TAG = r"[\w][\w.-]{0,127}"
_REGISTRY = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

DnsLabel = Annotated[str, StringConstraints(pattern=rf"^{_DNS_LABEL}$")]
DnsName = Annotated[str, StringConstraints(pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$", max_length=253)]
# What KFP's compiler accepts: a subset of Kubernetes' notation.
Cpu = Annotated[str, StringConstraints(pattern=r"^(\d+(\.\d+)?|\d+m)$")]
Bytes = Annotated[str, StringConstraints(pattern=r"^\d+(E|Ei|P|Pi|T|Ti|G|Gi|M|Mi|K|Ki)?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^\d+(s|m|h)?$")]
LabelKey = Annotated[
    str, StringConstraints(pattern=rf"^({_DNS_LABEL}(\.{_DNS_LABEL})*/)?[A-Za-z0-9]([-\w.]{{0,61}}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, StringConstraints(pattern=r"^/[^:]+$")]
Seconds = Annotated[int, Field(gt=0, le=2**31 - 1)]


def _http_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("must be an address such as http://mlflow.deepsynth:5000")
    return value


def _image_registry(value: str) -> str:
    if value and not _REGISTRY.fullmatch(value):
        raise ValueError("must be such as ghcr.io/owner, with no slash last")
    return value


def _image_tag(value: str) -> str:
    if value == "latest":
        raise ValueError("KFP's cache knows the image by its name only; name one that never changes")
    if not re.fullmatch(_IN_IMAGE_TAG, value):
        raise ValueError("not an image's tag")
    return value


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads an unquoted off as false


HttpAddress = Annotated[str, AfterValidator(_http_address)]
Registry = Annotated[str, AfterValidator(_image_registry)]
ImageTag = Annotated[str, AfterValidator(_image_tag)]


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone; give one such as UTC or Europe/Berlin") from error
    return value


TimeZone = Annotated[str, AfterValidator(_time_zone)]


class Toleration(StepConfig):
    """One entry of ``spec.tolerations``."""

    key: LabelKey | None = None
    """the taint's key; null: tolerate every taint"""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: any value of the taint; Equal: this value only"""
    value: LabelValue | None = None
    """the taint's value; only with Equal"""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """the taint's effect; null: tolerate every effect"""

    @model_validator(mode="after")
    def _as_kubernetes_wants_it(self) -> Self:
        if self.operator == "Equal" and (self.key is None or self.value is None):
            raise ValueError("operator Equal needs a key and a value")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value")
        return self


class Gpu(StepConfig):
    """What train, evaluate and benchmark get: ``count`` GPUs, and the nodes that have them."""

    count: int = Field(1, ge=0)
    """GPUs per task: resources.limits[resource]; 0: these tasks run on the CPU, in the CPU image"""
    resource: LabelKey = "nvidia.com/gpu"
    """the device plugin's resource name"""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """spec.nodeSelector, e.g. the label of the nodes with one type of GPU"""
    tolerations: list[Toleration] = Field(default_factory=list)
    """spec.tolerations, e.g. of the taint that keeps other pods off the GPU nodes"""


class Resources(StepConfig):
    """``resources.requests`` and ``resources.limits`` of one kind of task, and how long it may take."""

    cpu_request: Cpu | None = None
    """cores, or thousandths of a core with the suffix m: 500m"""
    cpu_limit: Cpu | None = None
    """a task that tries to use more is throttled"""
    memory_request: Bytes | None = None
    """bytes, or with a unit: 4Gi"""
    memory_limit: Bytes | None = None
    """a task that uses more is killed, with exit code 137"""
    timeout_seconds: Seconds | None = None
    """spec.activeDeadlineSeconds of the pod: a task that takes longer fails"""


class TaskResources(StepConfig):
    """One entry per kind of task."""

    control: Resources = Resources()
    """configure, gate, and the task that closes the run"""
    prepare: Resources = Resources()
    """prepare, or its selection, its partitions and their merge"""
    gpu: Resources = Resources()
    """train, evaluate and benchmark"""
    export: Resources = Resources()
    """export, which loads the model with and without the adapter"""


class Volume(StepConfig):
    """A PersistentVolumeClaim of the namespace, which the image's user can write."""

    claim: DnsName
    """spec.volumes[].persistentVolumeClaim.claimName"""
    mount_path: MountPath
    """volumeMounts[].mountPath"""


class SecretEnv(StepConfig):
    """Keys of one Secret as environment variables."""

    name: DnsName
    """the Secret's name"""
    keys: dict[str, EnvName]
    """a mapping from the Secret's keys to variable names"""
    optional: bool = True
    """true: tasks start even if the Secret is missing"""


class Retries(StepConfig):
    """Retries of all tasks but configure. With KFP's stock settings only lost pods are retried, not failed programs."""

    num_retries: int = Field(2, ge=0)
    """further attempts after a lost pod; after a failed program (any exit code) only if Argo's retryPolicy is Always"""
    backoff_duration: Duration = "60s"
    """the wait before the first further attempt"""
    backoff_factor: float = Field(2.0, ge=1)
    """each further wait is longer by this factor"""
    backoff_max_duration: Duration = "1h"
    """no attempt is started later than this"""


class Limits(StepConfig):
    """``dsl.PipelineConfig``: how long a run may take, and how long its Workflow object and pods are kept."""

    active_deadline_seconds: Seconds | None = None
    """a run that takes longer is stopped and counts as failed"""
    ttl_seconds_after_success: Seconds | None = None
    """how long after a success the run's Workflow object and pods, with their logs, are removed"""
    ttl_seconds_after_failure: Seconds | None = None
    """the same after a failure"""


class SecurityContext(StepConfig):
    """``securityContext`` of the tasks' containers; KFP itself forbids privilege escalation and drops capabilities."""

    run_as_user: int | None = Field(IMAGE_USER, ge=1)
    """the user id; null: the image's user. Our images use 10001"""
    run_as_group: int | None = Field(IMAGE_USER, ge=0)
    """the id of the group that owns the volumes; null: Kubernetes uses the group in the image's /etc/passwd, else 0"""
    run_as_non_root: bool | None = None
    """true: Kubernetes refuses to start a container as root"""


class Environment(StepConfig):
    """Everything that differs between two clusters."""

    host: HttpAddress | None = None
    """the KFP API's address; --host overrides it"""
    registry: Registry = ""
    """the prefix of the images' names, e.g. ghcr.io/OWNER; empty: images that are already on the nodes"""
    tag: ImageTag | None = None
    """the tag of both images; default: version-commit of this code"""
    namespace: DnsLabel = "deepsynth"
    """the namespace of the runs and their pods: kubeflow in a standalone KFP, the profile's in a multi-user one"""
    experiment: str = Field(PIPELINE_NAME, min_length=1)
    """the KFP experiment of the runs; --experiment overrides it"""
    service_account: DnsName = "deepsynth-pipeline"
    """spec.serviceAccountName of the tasks"""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """imagePullPolicy of the tasks' containers"""
    image_pull_secrets: list[DnsName] = Field(default_factory=list)
    """spec.imagePullSecrets"""
    gpu: Gpu = Gpu()
    resources: TaskResources = TaskResources()
    checkpoints: Volume | None = None
    """train's checkpoints (DEEPSYNTH_CHECKPOINTS), from which a retried training resumes; null: it starts again"""
    cache: Volume | None = None
    """models and datasets from the hub (HF_HOME) and compiled kernels (XDG_CACHE_HOME), shared by all runs"""
    volumes: list[Volume] = Field(default_factory=list)
    """further claims, mounted in all tasks: documents (then source: /documents/...), base models"""
    shared_memory: Bytes | None = None
    """size of /dev/shm in train, evaluate and benchmark: an emptyDir in memory that counts towards memory_limit"""
    secrets: list[SecretEnv] = Field(default_factory=list)
    """keys of Secrets as environment variables (valueFrom.secretKeyRef) of all tasks"""
    env: dict[EnvName, str] = Field(default_factory=dict)
    """further environment variables of all tasks, e.g. for a proxy; not for secrets"""
    security_context: SecurityContext = SecurityContext()
    mlflow_tracking_uri: Annotated[HttpAddress | Literal["off"] | None, BeforeValidator(_off)] = None
    """MLFLOW_TRACKING_URI; off: no tracking; null: KFP's MLflow plugin sets it and gets mlflow_experiment"""
    mlflow_ca: DnsName | None = None
    """a ConfigMap whose key ca.crt (PEM) certifies the tracking server: mounted in all tasks, and named by
    MLFLOW_TRACKING_SERVER_CERT_PATH; null: a public authority does, or the address is http://"""
    mlflow_direct_artifacts: bool = False
    """MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD and _UPLOAD: true: steps transfer artifact files directly to and from S3
    with presigned URLs, not through MLflow's server; pods must reach S3 at the address that the server uses"""
    mlflow_experiment: str = Field("deepsynth", min_length=1)
    """MLFLOW_EXPERIMENT_NAME: one experiment for all runs of the pipeline; local runs use the same name"""
    otlp_endpoint: HttpAddress | None = None
    """OTEL_EXPORTER_OTLP_ENDPOINT: where the steps send their spans; null: they send none"""
    log_format: Literal["json", "text"] = "json"
    """DEEPSYNTH_LOG: the format of the steps' logs"""
    retries: Retries = Retries()
    limits: Limits = Limits()
    scheduler_timezone: TimeZone = "UTC"
    """the zone in which KFP's scheduler reads cron fields: cronScheduleTimezone in its ConfigMap
    pipeline-install-config"""

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        volumes = [volume for volume in (self.checkpoints, self.cache, *self.volumes) if volume]
        places = [volume.mount_path.rstrip("/") for volume in volumes] + ["/dev/shm"]
        if twice := {place for place in places if places.count(place) > 1}:
            raise ValueError(f"two volumes have the mount_path {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _certificate_is_for_tls(self) -> Self:
        if self.mlflow_ca and not (self.mlflow_tracking_uri or "https://").startswith("https://"):
            raise ValueError("mlflow_ca certifies an https:// server, and mlflow_tracking_uri names another")
        return self

    @property
    def version(self) -> str:
        """The images' tag, which is also the name of the pipeline version."""
        return self.tag or code_tag()

    @property
    def image(self) -> str:
        """The CPU image's name with its tag."""
        return self._named(CPU_IMAGE)

    @property
    def gpu_image(self) -> str:
        """The image of train, evaluate and benchmark."""
        return self._named(GPU_IMAGE if self.gpu.count else CPU_IMAGE)

    def _named(self, image: str) -> str:
        return f"{self.registry + '/' if self.registry else ''}{image}:{self.version}"


def read_environment(path: Path) -> Environment:
    """Return the environment that the YAML file describes.

    Raises:
        UserError: the file is missing, not YAML, or a key or value is wrong.
    """
    return validated(Environment, read_config_file(path), str(path))
