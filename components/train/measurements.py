"""What is measured while a model trains: losses, step times, tokens, memory."""

import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.shared.progress import ProgressReport
from components.shared.tracking import TrackedRun


@dataclass
class TrainingMeasurements:
    """Lists with one entry per optimizer step, except for the loss curve with one per ``logging_steps``.

    ``step_seconds`` run from the step's first batch to its last kernel (the device is synchronised);
    ``tokens_per_step`` counts prompt, image and answer tokens without padding.
    """

    step_seconds: list[float] = field(default_factory=list)
    tokens_per_step: list[int] = field(default_factory=list)
    samples_per_step: list[int] = field(default_factory=list)
    loss_steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    truncated_samples: int = 0


class MeasuringCallback(TrainerCallback):
    """Fills ``TrainingMeasurements``, the progress bar and the tracked run while the Trainer runs."""

    def __init__(self, measurements: TrainingMeasurements, tracked: TrackedRun, progress: ProgressReport) -> None:
        self._measurements = measurements
        self._tracked = tracked
        self._progress = progress
        self._step_started = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measurements.tokens_per_step.append(0)
        self._measurements.samples_per_step.append(0)
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._measurements.step_seconds.append(time.perf_counter() - self._step_started)
        self._progress.advance(note=f"loss {self._measurements.losses[-1]:.3f}" if self._measurements.losses else "")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        measured = self._measurements
        measured.loss_steps.append(state.global_step)
        measured.losses.append(logs["loss"])
        measured.learning_rates.append(logs["learning_rate"])
        measured.gradient_norms.append(float(logs["grad_norm"]))
        metrics = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "grad_norm": float(logs["grad_norm"])}
        if measured.step_seconds and measured.step_seconds[-1] > 0:
            metrics["samples_per_second"] = measured.samples_per_step[-1] / measured.step_seconds[-1]
            metrics["tokens_per_second"] = measured.tokens_per_step[-1] / measured.step_seconds[-1]
        self._tracked.log_metrics(metrics, step=state.global_step)


def start_memory_peak() -> None:
    """Let the peak of CUDA memory count from here on."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> dict[str, int | None]:
    """Return the peak memory since ``start_memory_peak``: CUDA allocated and reserved (None without CUDA).

    ``resident`` is the process's, from its start.
    """
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if not torch.cuda.is_available():
        return {"allocated": None, "reserved": None, "resident": resident}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "resident": resident,
    }
