"""The benchmark step's interface."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.shared.step_config import StepConfig

Contender = Literal["standard", "unsloth"]

_SET_BY_THE_BENCHMARK = {"dataset_dir", "base_model", "output_dir", "backend", "max_steps", "logging_steps"}


class BenchmarkConfig(StepConfig):
    """Compare the training backends: the same shards, seed and settings, each in a process of its own."""

    dataset_dir: Path
    """the folder that the prepare step made"""
    base_model: str = "tiny-base"
    """a model folder, a hub id, or tiny-base"""
    output_dir: Path
    """the folder to make: benchmark.json, benchmark.html and the contenders' logs"""
    train: dict[str, Any] = Field(default_factory=dict)
    """the train step's settings, the same for all contenders"""
    contenders: list[Contender] = Field(default=["standard", "unsloth"], min_length=1)
    """the training backends to compare"""
    max_steps: int = Field(8, ge=1)
    """optimizer steps of each contender"""
    warmup_steps: int = Field(2, ge=0)
    """first steps that are left out of the figures: compilation, memory allocation, cold caches"""
    repeats: int = Field(1, ge=1)
    """how often each contender runs; the contenders take turns"""

    @model_validator(mode="after")
    def _is_measurable(self) -> Self:
        if self.max_steps <= self.warmup_steps:
            raise ValueError("max_steps must be above warmup_steps: no step would be left to measure")
        if len(set(self.contenders)) != len(self.contenders):
            raise ValueError("contenders must not name one twice")
        if given := _SET_BY_THE_BENCHMARK & self.train.keys():
            raise ValueError(f"train must not hold {', '.join(sorted(given))}: the benchmark sets it")
        return self
