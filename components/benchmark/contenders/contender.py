"""One contender's run: the train step in a new process, and the figures of its steady steps."""

import importlib.util
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from components.benchmark.config import BenchmarkConfig
from components.benchmark.contenders.module_process import OUT_OF_TIME, run_module, seconds_until
from components.benchmark.contenders.probes import probe
from components.shared.artifacts.benchmark_report import Measurement
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.errors import UserError
from components.shared.programs.probe_settings import Contender
from components.shared.telemetry.tracing import span

BACKENDS: dict[Contender, dict[str, Any]] = {
    "standard": {"backend": "standard"},
    "unsloth": {"backend": "unsloth"},
    "stock": {"backend": "standard", "quantize_experts": False, "upcast_unquantized": True},
}
"""Contender -> the train step's settings that define it."""
NOT_COMPARED = {
    "checkpoint_dir",
    "resume_from_checkpoint",
    "save_steps",
    "eval_steps",
    "eval_pages",
    "max_eval_samples",
    "metric_for_best_model",
    "early_stopping_patience",
    "fit_batch",
}
"""Settings of the train step that would put other work between the timed steps, let one contender resume from another's
checkpoint, or give each another batch."""


def measure(
    contender: Contender, repeat: int, config: BenchmarkConfig, logs: Path, deadline: float = math.inf
) -> Measurement:
    """Train with ``contender`` and return its figures, or the reason why it cannot run. Its output goes into ``logs``.

    In the first repeat the model is probed afterwards (``components.benchmark.contenders.probes``). ``deadline`` is a
    value of ``time.monotonic``.
    """
    reason = _cannot_run(contender) or (OUT_OF_TIME if time.monotonic() >= deadline else None)
    if reason:
        return Measurement(contender=contender, repeat=repeat, status="skipped", reason=reason)
    with tempfile.TemporaryDirectory(prefix=f"{contender}-", dir=logs.parent) as folder:
        scratch = Path(folder)
        settings = train_settings(contender, config, scratch / "adapter")
        started = time.perf_counter()
        log = logs / f"{contender}-{repeat}.log"
        with span(f"train with {contender}", repeat=repeat):
            failure = run_module("components.train", settings, scratch / "train.json", log, seconds_until(deadline))
        wall_seconds = time.perf_counter() - started
        if failure:
            return Measurement(contender=contender, repeat=repeat, status="failed", reason=failure)
        training = TrainingRecord.read(scratch / "adapter")
        figures = steady_figures(contender, repeat, training, config.warmup_steps, wall_seconds)
        if repeat > 1 or figures.status != "ok":
            return figures
        return figures.model_copy(update=probe(config, settings, scratch, logs / f"{contender}-probes.log", deadline))


def check_train_settings(config: BenchmarkConfig) -> None:
    """Have the train step check the settings in ``config.train`` before anything is measured.

    Raises:
        UserError: a key is unknown, a value is wrong, or the weights cannot fit into memory.
    """
    with scratch_folder("deepsynth-benchmark") as folder:
        file = folder / "train"
        # What Unsloth alone refuses is the result of that contender, not an error of the settings.
        settings = train_settings(config.contenders[0], config, folder / "adapter") | {"backend": "standard"}
        failure = run_module("components.train", settings, file, folder / "log", check_only=True)
    if failure:
        raise UserError(failure.replace(f"{file}: ", ""), where="benchmark: train", mend="correct benchmark.train")


def train_settings(contender: Contender, config: BenchmarkConfig, adapter: Path) -> dict[str, Any]:
    """Return the train step's settings: those of the config, which are the same for all, and the contender's own.

    Vision features are stored beside the adapter instead of in the configured folder: each training computes its own,
    because otherwise the second contender would reuse what the first one computed.
    """
    shared = {name: value for name, value in config.train.items() if name not in NOT_COMPARED}
    if shared.get("vision_features_dir"):
        shared["vision_features_dir"] = str(adapter.with_name("vision-features"))
    shared |= BACKENDS[contender]
    return shared | {
        "dataset_dir": str(config.dataset_dir),
        "base_model": config.base_model,
        "output_dir": str(adapter),
        "max_steps": config.max_steps,
        "logging_steps": 1,
    }


def steady_figures(
    contender: Contender, repeat: int, training: TrainingRecord, warmup_steps: int, wall_seconds: float
) -> Measurement:
    """Return the figures of the steps after the first ``warmup_steps`` of a train step's ``training.json``."""
    if training.batch and training.batch.halvings:
        first = training.batch.halvings[0]
        reason = (
            f"ran out of memory after step {first.after_step}; it went on with"
            f" per_device_train_batch_size {first.per_device_train_batch_size}, which is not comparable"
        )
        return Measurement(contender=contender, repeat=repeat, status="failed", reason=reason)
    warmup, seconds = training.step_seconds[:warmup_steps], training.step_seconds[warmup_steps:]
    if not seconds:
        done = len(training.step_seconds)
        reason = f"only {done} steps were made, all of them warm-up: the dataset or num_train_epochs is too small"
        return Measurement(contender=contender, repeat=repeat, status="failed", reason=reason)
    median = statistics.median(seconds)
    return Measurement(
        contender=contender,
        repeat=repeat,
        status="ok",
        device=training.device,
        median_step_seconds=median,
        samples_per_second=sum(training.samples_per_step[warmup_steps:]) / sum(seconds),
        tokens_per_second=sum(training.tokens_per_step[warmup_steps:]) / sum(seconds),
        data_wait_share=_share(sum(training.data_wait_seconds[warmup_steps:]), sum(seconds)),
        startup_seconds=wall_seconds - sum(seconds),
        compile_seconds=max(0.0, sum(warmup) - median * len(warmup)),
        peak_memory_bytes=training.peak_memory_bytes,
        loading_peak_memory_bytes=training.loading_peak_memory_bytes,
        trainable_parameters=training.trainable_parameters,
        step_seconds=training.step_seconds,
        losses=training.losses,
        tokens_per_step=training.tokens_per_step,
        details=training.details,
        vision_features=training.vision_features,
    )


def _share(waiting: float, working: float) -> float:
    return waiting / (waiting + working)


def _cannot_run(contender: Contender) -> str | None:
    if contender != "unsloth":
        return None
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device on this machine"
    if importlib.util.find_spec(contender) is None:
        return f"the {contender} package is not installed"
    return None
