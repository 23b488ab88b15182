"""The benchmark step's interface."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from components.shared.programs.probe_settings import Contender, ProbeSettings

_CHOSEN_BY_THE_BENCHMARK = {"dataset_dir", "base_model", "output_dir", "backend", "max_steps", "logging_steps"}


class BenchmarkConfig(ProbeSettings):
    """Compare the training backends with the same shards, seed and settings, each in its own process."""

    dataset_dir: Path
    """the folder that the prepare step made"""
    base_model: str = "tiny-base"
    """a model folder, a hub id, or tiny-base"""
    output_dir: Path
    """the folder to make: benchmark.json, benchmark.html and the contenders' logs"""
    train: dict[str, Any] = Field(default_factory=dict)
    """the train step's settings, the same for all contenders"""
    contenders: list[Contender] = Field(default=["standard", "unsloth"], min_length=1)
    """standard: transformers and PEFT as this project sets them up; unsloth; stock: transformers and PEFT as in PEFT's
    guide (prepare_model_for_kbit_training: fused experts are not quantised, everything that is not quantised is in
    float32), which differs from standard in 4 and 8 bits"""
    max_steps: int = Field(8, ge=1)
    """optimizer steps of each contender"""
    warmup_steps: int = Field(2, ge=0)
    """number of first steps to leave out of the figures: compilation, memory allocation, cold caches"""
    repeats: int = Field(1, ge=1)
    """how often each contender trains; the contenders take turns"""
    time_limit_minutes: float | None = Field(None, gt=0)
    """time limit in minutes: a contender that is still running is stopped, the rest are skipped; their rows say so"""

    @model_validator(mode="after")
    def _is_measurable(self) -> Self:
        if self.max_steps <= self.warmup_steps:
            raise ValueError("max_steps must be above warmup_steps: no step would be left to measure")
        if len(set(self.contenders)) != len(self.contenders):
            raise ValueError("contenders must not name one twice")
        if given := _CHOSEN_BY_THE_BENCHMARK & self.train.keys():
            raise ValueError(f"train must not hold {', '.join(sorted(given))}: the benchmark sets it")
        return self
