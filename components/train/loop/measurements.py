"""Measures a training: losses, step times, tokens, memory."""

import logging
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from components.shared.errors import UserError
from components.shared.telemetry.progress import ProgressReport, duration_text
from components.shared.tracking.step_run import TrackedRun
from components.train.loop.time_estimate import MEASURED_FROM, MEASURED_UNTIL, training_time
from components.train.processes.distributed import in_any_process, is_first, largest, of_all, summed

log = logging.getLogger(__name__)


@dataclass
class TrainingMeasurements:
    """Lists with one entry per optimizer step; the loss curve has one per ``logging_steps``, and one at the last step.

    ``step_seconds`` run from the step's first batch to its last kernel (the device is synchronised).
    ``tokens_per_step`` counts prompt, image and answer tokens without padding, ``padded_tokens_per_step`` with padding.
    ``data_wait_seconds`` is the wait for a step's batches before the step; it is not part of ``step_seconds``.
    ``flops_per_step`` counts the language model only (``utilization.py``). ``eval_*`` have one entry per evaluation,
    CER and WER only if pages are transcribed. ``resumed_after_steps`` has the steps at which the training resumed from
    a checkpoint. With several processes, samples, tokens and operations are sums over all processes; seconds are those
    of the first process.
    """

    step_seconds: list[float] = field(default_factory=list)
    tokens_per_step: list[int] = field(default_factory=list)
    padded_tokens_per_step: list[int] = field(default_factory=list)
    samples_per_step: list[int] = field(default_factory=list)
    flops_per_step: list[float] = field(default_factory=list)
    data_wait_seconds: list[float] = field(default_factory=list)
    loss_steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    eval_steps: list[int] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)
    eval_cers: list[float] = field(default_factory=list)
    eval_wers: list[float] = field(default_factory=list)
    eval_seconds: list[float] = field(default_factory=list)
    resumed_after_steps: list[int] = field(default_factory=list)
    checkpoint_seconds: list[float] = field(default_factory=list)
    failed_checkpoints: int = 0
    truncated_samples: int = 0
    best_step: int | None = None
    """with early stopping: the step whose weights are the result"""
    vision_features: dict[str, float] | None = None
    """with stored features: the numbers of pages ``computed`` before the first step, ``reused`` and ``left_out`` (no
    room), the ``seconds`` of that pass and the stored ``bytes``; the number ``computed_in_steps``, and how many of
    these had a ``corrupt`` file"""
    batch: dict[str, Any] | None = None
    """pages per pass and passes per step at the end, and each time that they changed, see ``BatchPlan``"""

    def begin_step(self) -> None:
        """Append a step's entries; ``count`` adds to them batch by batch."""
        self._truncated_before = self.truncated_samples  # not a field: of no use after the step
        for counts in (self.tokens_per_step, self.padded_tokens_per_step, self.samples_per_step):
            counts.append(0)
        self.flops_per_step.append(0.0)

    def count(self, lengths: list[int], padded_length: int, flops: float) -> None:
        """Add a batch to the current step: rows of ``lengths`` tokens, padded to ``padded_length``."""
        self.tokens_per_step[-1] += sum(lengths)
        self.padded_tokens_per_step[-1] += padded_length * len(lengths)
        self.samples_per_step[-1] += len(lengths)
        self.flops_per_step[-1] += flops

    def drop_unfinished_step(self) -> None:
        """Remove the entries of a step that has begun and not ended."""
        finished = len(self.step_seconds)
        if len(self.samples_per_step) > finished:
            self.truncated_samples = self._truncated_before
        counts = (self.tokens_per_step, self.padded_tokens_per_step, self.samples_per_step, self.flops_per_step)
        for entries in (*counts, self.data_wait_seconds):
            del entries[finished:]

    def count_all_processes(self, truncated_before: int) -> None:
        """Add the other processes' counts of the current step.

        ``truncated_before`` is the number of truncated samples before this step.
        """
        counts = (self.tokens_per_step, self.padded_tokens_per_step, self.samples_per_step, self.flops_per_step)
        truncated: float = self.truncated_samples - truncated_before
        tokens, padded, samples, flops, truncated = summed([*(count[-1] for count in counts), truncated])
        self.tokens_per_step[-1], self.padded_tokens_per_step[-1] = int(tokens), int(padded)
        self.samples_per_step[-1], self.flops_per_step[-1] = int(samples), flops
        self.truncated_samples = truncated_before + int(truncated)

    def rates(self, steps: int, peak: float | None) -> dict[str, float]:
        """Return the rates of the last ``steps`` steps, with the wait for data; ``peak`` (FLOP/s) is for MFU."""
        working, waiting = sum(self.step_seconds[-steps:]), sum(self.data_wait_seconds[-steps:])
        seconds = working + waiting
        if not steps or not seconds:
            return {}
        tokens, padded = sum(self.tokens_per_step[-steps:]), sum(self.padded_tokens_per_step[-steps:])
        rates = {
            "samples_per_second": sum(self.samples_per_step[-steps:]) / seconds,
            "tokens_per_second": tokens / seconds,
            "data_wait_share": waiting / seconds,
            "padding_share": 1 - tokens / max(1, padded),
        }
        return rates | ({"mfu": sum(self.flops_per_step[-steps:]) / seconds / peak} if peak else {})


class MeasuringCallback(TrainerCallback):
    """Fills ``TrainingMeasurements``, the progress bar and the tracked run while the Trainer runs.

    ``peak`` is the peak FLOP/s of all devices together; without it (None), MFU is left out.
    """

    def __init__(
        self, measurements: TrainingMeasurements, tracked: TrackedRun, progress: ProgressReport, peak: float | None
    ) -> None:
        self._measurements = measurements
        self._tracked = tracked
        self._progress = progress
        self._peak = peak
        self._step_started = 0.0
        self._steps_logged = self._resumed_after = len(measurements.step_seconds)
        self._predicted: list[str] = []
        self._truncated_before = 0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measurements.begin_step()
        self._truncated_before = self._measurements.truncated_samples
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._measurements.step_seconds.append(time.perf_counter() - self._step_started)
        self._measurements.count_all_processes(self._truncated_before)
        self._predict_time(state.max_steps)
        loss = [f"loss {self._measurements.losses[-1]:.3f}"] if self._measurements.losses else []
        self._progress.advance(note=", ".join([*loss, *self._predicted]))
        self._log_the_last_step(control)

    def _predict_time(self, planned: int) -> None:
        measured = self._measurements
        time_of_all = training_time(measured.step_seconds, measured.data_wait_seconds, planned, self._resumed_after)
        if time_of_all is None or not is_first():
            return
        self._predicted = [f"about {duration_text(time_of_all.seconds)} in all"]
        figures = {"estimated_training_seconds": time_of_all.seconds}
        self._tracked.log_metrics(figures)
        self._tracked.summarize(figures)
        log.info(
            "the training takes about %s: %d steps of %.2f s (median of steps %d to %d), without evaluations and"
            " checkpoints",
            duration_text(time_of_all.seconds),
            planned,
            time_of_all.seconds_per_step,
            self._resumed_after + MEASURED_FROM,
            self._resumed_after + MEASURED_UNTIL,
        )

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._log_the_last_step(control)

    def _log_the_last_step(self, control: TrainerControl) -> None:
        # transformers logs only at multiples of logging_steps. Early stopping decides after on_step_end, so the epoch's
        # end calls this as well; a step that is already logged is not logged twice.
        control.should_log = control.should_log or control.should_training_stop

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "eval_loss" in logs:
            self._log_evaluation(state.global_step, logs)
        if logs and "loss" in logs:
            self._log_steps(state.global_step, logs)

    def _log_steps(self, step: int, logs: dict[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise _diverged(f"the loss became {logs['loss']} at step {step}")
        measured = self._measurements
        measured.loss_steps.append(step)
        measured.losses.append(logs["loss"])
        measured.learning_rates.append(logs["learning_rate"])
        measured.gradient_norms.append(float(logs["grad_norm"]))
        metrics = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "grad_norm": float(logs["grad_norm"])}
        metrics |= measured.rates(len(measured.step_seconds) - self._steps_logged, self._peak)
        if torch.cuda.is_available():
            metrics["peak_memory_gib"] = largest([torch.cuda.max_memory_allocated()])[0] / 2**30
        self._steps_logged = len(measured.step_seconds)
        self._tracked.log_metrics(metrics, step=step)

    def _log_evaluation(self, step: int, logs: dict[str, float]) -> None:
        measured = self._measurements
        measured.eval_steps.append(step)
        measured.eval_losses.append(logs["eval_loss"])
        if "eval_cer" in logs:
            measured.eval_cers.append(logs["eval_cer"])
            measured.eval_wers.append(logs["eval_wer"])
        measured.eval_seconds.append(logs["eval_runtime"])
        shown = ("eval_loss", "eval_cer", "eval_wer", "eval_runtime")
        self._tracked.log_metrics({name: logs[name] for name in shown if name in logs}, step=step)


def check_trained_weights(model: torch.nn.Module, step: int) -> None:
    """Check the weights after the last step, because no later loss would show that they diverged.

    Raises:
        UserError: a trained weight is nan or infinite in any process.
    """
    finite = all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad)
    if in_any_process(not finite):
        raise _diverged(f"a trained weight became nan or infinite by step {step}")


def _diverged(problem: str) -> UserError:
    mend = "lower it, or raise warmup_ratio; nothing was written"
    return UserError(problem, where="learning_rate", mend=mend)


def start_memory_peak() -> None:
    """Reset the CUDA memory peak, so that it is measured from here on."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_of_processes() -> list[dict[str, int | None]]:
    """Return ``peak_memory_bytes`` of every process of the training."""
    return of_all(peak_memory_bytes())


def highest_peak(peaks: Sequence[dict[str, int | None]]) -> dict[str, int | None]:
    """Return the largest value of each kind.

    >>> highest_peak([{"allocated": 3, "reserved": 5}, {"allocated": 4, "reserved": 4}])
    {'allocated': 4, 'reserved': 5}
    """
    return {kind: max((peak[kind] for peak in peaks), key=lambda peak: peak or 0) for kind in peaks[0]}


def peak_memory_bytes() -> dict[str, int | None]:
    """Return the peak memory since ``start_memory_peak``: CUDA allocated and reserved (None without CUDA).

    ``resident`` is the process's peak since it started.
    """
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if not torch.cuda.is_available():
        return {"allocated": None, "reserved": None, "resident": resident}
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "resident": resident,
    }
