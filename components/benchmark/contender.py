"""One contender's run: the train step in a fresh process, and the figures of its steady steps."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from components.benchmark.config import BenchmarkConfig, Contender

_LAST_LINES = 5


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


def measure(contender: Contender, repeat: int, config: BenchmarkConfig, logs: Path) -> Measurement:
    """Train with ``contender`` and return its figures; one that cannot run says why. Its output goes into ``logs``."""
    if reason := _cannot_run(contender):
        return Measurement(contender=contender, repeat=repeat, status="skipped", reason=reason)
    log = logs / f"{contender}-{repeat}.log"
    with tempfile.TemporaryDirectory(prefix=f"{contender}-", dir=logs.parent) as scratch:
        started = time.perf_counter()
        exit_code = _train(contender, config, Path(scratch), log)
        wall_seconds = time.perf_counter() - started
        if exit_code != 0:
            return Measurement(contender=contender, repeat=repeat, status="failed", reason=_last_words(exit_code, log))
        training = json.loads((Path(scratch) / "adapter" / "training.json").read_text(encoding="utf-8"))
    return steady_figures(contender, repeat, training, config.warmup_steps, wall_seconds)


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
        startup_seconds=wall_seconds - sum(seconds),
        compile_seconds=max(0.0, sum(warmup) - median * len(warmup)),
        peak_memory_bytes=training["peak_memory_bytes"],
        loading_peak_memory_bytes=training["loading_peak_memory_bytes"],
        trainable_parameters=training["trainable_parameters"],
        step_seconds=training["step_seconds"],
        losses=training["losses"],
        tokens_per_step=training["tokens_per_step"],
        details=training["details"],
    )


def _cannot_run(contender: Contender) -> str | None:
    if contender == "standard":
        return None
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device on this machine"
    if importlib.util.find_spec(contender) is None:
        return f"the {contender} package is not installed"
    return None


def _train(contender: Contender, config: BenchmarkConfig, scratch: Path, log: Path) -> int:
    settings = config.train | {
        "dataset_dir": str(config.dataset_dir),
        "base_model": config.base_model,
        "output_dir": str(scratch / "adapter"),
        "backend": contender,
        "max_steps": config.max_steps,
        "logging_steps": 1,
    }
    settings_file = scratch / "train.json"
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "components.train", "--config", str(settings_file)]
    # Only the benchmark itself is tracked: the contenders' runs would look like trainings of their own.
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
    with log.open("w", encoding="utf-8") as output:
        return subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def _last_words(exit_code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    ended = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{ended}: " + " | ".join(lines[-_LAST_LINES:]) if lines else ended
