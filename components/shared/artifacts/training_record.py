"""``training.json``: what the train step did, with which settings, and what it measured."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from components.shared.artifacts.step_file import FileContent, StepFile

BackendName = Literal["standard", "unsloth"]


class BaseIdentity(FileContent):
    """A base model: its name, and the digests by which it is recognised."""

    name: str
    revision: str | None
    """the commit or tag; for a hub model without one given, the commit that was used"""
    config_sha256: str | None
    """over the content of its config.json; None where it cannot be read"""
    weights_sample_sha256: str | None
    """over the first bytes of each tensor; None where the weights are not here"""

    def as_json(self) -> dict[str, str | None]:
        return self.model_dump()


class PeakMemory(FileContent):
    """The peaks of a process's memory, in bytes."""

    allocated: int | None
    """CUDA memory in PyTorch's tensors; None without CUDA"""
    reserved: int | None
    """CUDA memory that PyTorch took from the device; None without CUDA"""
    resident: int | None
    """the process's resident set"""


class BatchHalving(FileContent):
    """The device ran out of memory, and the training went on with half the micro-batch."""

    after_step: int
    """the last step that was finished before"""
    per_device_train_batch_size: int
    """from there on: pages in one forward and backward pass"""
    gradient_accumulation_steps: int
    """from there on: passes in an optimizer step"""


class BatchRecord(FileContent):
    """How the pages of an optimizer step were divided at the end of a training."""

    per_device_train_batch_size: int
    """pages in one forward and backward pass"""
    gradient_accumulation_steps: int
    """passes in an optimizer step"""
    fitted: bool
    """whether ``fit_batch`` chose the division at the start"""
    halvings: list[BatchHalving]
    dealt_pages: int | None = None
    """on a CPU: pages in each part of a batch, if single threads compute the parts; None if all threads compute each
    pass together"""


class TrainingRecord(StepFile):
    """A training. Lists named ``..._per_step``, ``step_seconds`` and ``data_wait_seconds`` have one entry per optimizer
    step; losses, learning rates and gradient norms have one per ``loss_steps``; ``eval_...`` one per evaluation.

    With several processes, samples, tokens and operations are those of all, seconds those of the first.
    """

    FILE: ClassVar[str] = "training.json"
    MADE_BY: ClassVar[str] = "train"

    schema_version: Literal[1] = 1
    backend: BackendName
    backend_reason: str
    """why this backend was chosen"""
    base_model: str
    base: BaseIdentity | None
    """the base that was loaded; None where its files are not in the hub's cache under its own name"""
    dataset_digest: str
    config: dict[str, Any]
    """all settings of the train step, by the names of its config (Hugging Face's and PEFT's)"""
    seed: int
    processes: int
    steps: int
    """optimizer steps"""
    trainable_parameters: int
    parameters: int
    device: str
    details: dict[str, Any]
    """facts that the backend reports: attention, experts' kernels, frozen weights by number format"""
    peak_memory_bytes: PeakMemory
    """while training; the highest of all processes"""
    loading_peak_memory_bytes: PeakMemory
    """before the first step; the highest of all processes"""
    peak_memory_bytes_of_processes: list[PeakMemory] | None = None
    """while training, by process; None with one process"""
    batch: BatchRecord | None = None
    """None in files from before it was recorded"""
    step_seconds: list[float]
    """from the step's first batch to its last kernel"""
    tokens_per_step: list[int]
    """prompt, image and answer tokens without padding"""
    padded_tokens_per_step: list[int]
    samples_per_step: list[int]
    flops_per_step: list[float]
    """floating-point operations of the language model"""
    data_wait_seconds: list[float]
    """before each step, until its batches were ready; not part of ``step_seconds``"""
    loss_steps: list[int]
    losses: list[float]
    learning_rates: list[float]
    gradient_norms: list[float]
    eval_steps: list[int]
    eval_losses: list[float]
    eval_cers: list[float]
    eval_wers: list[float]
    eval_seconds: list[float]
    resumed_after_steps: list[int]
    """the steps after which the training continued from a checkpoint"""
    checkpoint_seconds: list[float]
    failed_checkpoints: int
    truncated_samples: int
    best_step: int | None
    """with early stopping: the step whose weights were saved"""
    vision_features: dict[str, float] | None
    """with ``vision_features_dir``: counts of pages whose features were computed and reused, seconds and bytes"""
    versions: dict[str, str]


def training_record(adapter_dir: Path) -> TrainingRecord | None:
    """Return what the train step recorded in ``adapter_dir``; None where the folder has no ``training.json``.

    Raises:
        UserError: the file is not valid, or has another schema version.
    """
    return TrainingRecord.read(adapter_dir) if (adapter_dir / TrainingRecord.FILE).is_file() else None
