"""One contender's run: the train step in a fresh process, and the figures of its steady steps."""

import importlib.util
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from components.benchmark.config import BenchmarkConfig, Contender
from components.benchmark.module_process import OUT_OF_TIME, run_module, seconds_until
from components.benchmark.probes import probe
from components.shared.telemetry.tracing import span

BACKENDS: dict[Contender, dict[str, Any]] = {
    "standard": {"backend": "standard"},
    "unsloth": {"backend": "unsloth"},
    "stock": {"backend": "standard", "quantize_experts": False, "upcast_unquantized": True},
}
"""Contender -> the train step's settings that make it one."""
NOT_COMPARED = {
    "checkpoint_dir",
    "resume_from_checkpoint",
    "save_steps",
    "eval_steps",
    "eval_pages",
    "max_eval_samples",
    "metric_for_best_model",
    "early_stopping_patience",
}
"""Settings of the train step that would put other work between the timed steps, or let one contender go on where the
other stopped."""


class Measurement(BaseModel):
    """One run of one contender; the figures are None unless ``status`` is ``ok``."""

    contender: Contender
    repeat: int
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    """why it was skipped or failed, in words"""
    device: str | None = None
    median_step_seconds: float | None = None
    """median over the steady steps, those after the warm-up"""
    samples_per_second: float | None = None
    """pages of the steady steps by their seconds"""
    tokens_per_second: float | None = None
    data_wait_share: float | None = None
    """time between the steady steps in which their pages were not there yet, of that and the steps' own"""
    startup_seconds: float | None = None
    """the process's wall time without the steady steps: imports, model, warm-up steps, saving"""
    compile_seconds: float | None = None
    """what the warm-up steps took beyond as many steady steps: compilation, memory allocation, cold caches"""
    peak_memory_bytes: dict[str, int | None] | None = None
    """while training: allocated and reserved on the device (None without one), resident of the process"""
    loading_peak_memory_bytes: dict[str, int | None] | None = None
    """likewise while loading, before the first step"""
    trainable_parameters: int | None = None
    step_seconds: list[float] | None = None
    losses: list[float] | None = None
    tokens_per_step: list[int] | None = None
    details: dict[str, Any] | None = None
    """attention, experts' kernels, and the frozen weights by number format, as the backend reports them"""
    vision_features: dict[str, float] | None = None
    """with ``vision_features_dir``: the pass that computes the features before the first step, as the train step
    reports it; its ``seconds`` are part of ``startup_seconds`` and of no step"""
    cer: float | None = None
    """corpus CER on the held-out pages after ``max_steps``, read in the contender's own number format; first repeat"""
    generated_tokens_per_second: list[float] | None = None
    """one value per ``generation_repeats``; first repeat"""
    generated_pages_per_second: list[float] | None = None
    graphed_tokens_per_second: list[float] | None = None
    """likewise with recorded steps (``components.shared.reading.graphed_decoding``), on a GPU"""
    graphed_pages_per_second: list[float] | None = None
    first_token_seconds: list[float] | None = None
    """of one page, its picture decoded but not yet preprocessed"""
    largest_batch: int | None = None
    """pages of one step that fit ``memory_cap_gib``, all like the one with the longest label; 0: not even one"""
    largest_batch_samples_per_second: float | None = None
    longest_context: int | None = None
    """tokens of one page that fit ``memory_cap_gib``; 0: not even the picture and a few words"""
    probes: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """the raw results behind the fields from ``cer`` on: reading, generation, largest_batch and longest_context, each
    with a status and, where it is not ``ok``, the reason"""


def measure(
    contender: Contender, repeat: int, config: BenchmarkConfig, logs: Path, deadline: float = math.inf
) -> Measurement:
    """Train with ``contender`` and return its figures; one that cannot run says why. Its output goes into ``logs``.

    In the first repeat its model is then probed, see ``components.benchmark.probes``. ``deadline`` is a value of
    ``time.monotonic``.
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
        training = json.loads((scratch / "adapter" / "training.json").read_text(encoding="utf-8"))
        figures = steady_figures(contender, repeat, training, config.warmup_steps, wall_seconds)
        if repeat > 1 or figures.status != "ok":
            return figures
        return figures.model_copy(update=probe(config, settings, scratch, logs / f"{contender}-probes.log", deadline))


def train_settings(contender: Contender, config: BenchmarkConfig, adapter: Path) -> dict[str, Any]:
    """Return the train step's settings: those of the config, the same for all, and the contender's own.

    Vision features are kept beside the adapter instead of where the config says: each training makes its own, or the
    second contender would profit from the first one's pass over the pages.
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
    contender: Contender, repeat: int, training: dict[str, Any], warmup_steps: int, wall_seconds: float
) -> Measurement:
    """Return the figures of the steps after the first ``warmup_steps`` of a train step's ``training.json``."""
    warmup, seconds = training["step_seconds"][:warmup_steps], training["step_seconds"][warmup_steps:]
    if not seconds:
        done = len(training["step_seconds"])
        reason = f"only {done} steps were made, all of them warm-up: the dataset or num_train_epochs is too small"
        return Measurement(contender=contender, repeat=repeat, status="failed", reason=reason)
    median = statistics.median(seconds)
    return Measurement(
        contender=contender,
        repeat=repeat,
        status="ok",
        device=str(training["device"]),
        median_step_seconds=median,
        samples_per_second=sum(training["samples_per_step"][warmup_steps:]) / sum(seconds),
        tokens_per_second=sum(training["tokens_per_step"][warmup_steps:]) / sum(seconds),
        data_wait_share=_share(sum(training["data_wait_seconds"][warmup_steps:]), sum(seconds)),
        startup_seconds=wall_seconds - sum(seconds),
        compile_seconds=max(0.0, sum(warmup) - median * len(warmup)),
        peak_memory_bytes=training["peak_memory_bytes"],
        loading_peak_memory_bytes=training["loading_peak_memory_bytes"],
        trainable_parameters=training["trainable_parameters"],
        step_seconds=training["step_seconds"],
        losses=training["losses"],
        tokens_per_step=training["tokens_per_step"],
        details=training["details"],
        vision_features=training.get("vision_features"),
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
