"""How the pages of an optimizer step are divided into forward and backward passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.train.config import TrainConfig

MOST_HALVINGS = 2


@dataclass(frozen=True)
class BatchPlan:
    """A process's share of an optimizer step; the pages of each step and their order do not depend on the passes.

    Attributes:
        loaded: pages in one batch of the data loader.
        loads: the loader's batches in one optimizer step.
        micro_batch: the most pages in one forward and backward pass.
        fitted: ``fit_batch`` chose it.
        halvings: for each time that the device ran out of memory: ``after_step``, and the settings from there on.
    """

    loaded: int
    loads: int
    micro_batch: int
    fitted: bool = False
    halvings: Sequence[dict[str, int]] = field(default=())

    @property
    def settings(self) -> dict[str, int]:
        """The plan by the names of the config.

        >>> BatchPlan(loaded=5, loads=3, micro_batch=2).settings
        {'per_device_train_batch_size': 2, 'gradient_accumulation_steps': 9}
        """
        accumulated = self.loads * -(-self.loaded // self.micro_batch)
        return {"per_device_train_batch_size": self.micro_batch, "gradient_accumulation_steps": accumulated}

    def halved(self, after_step: int) -> "BatchPlan | None":
        """Return the plan with half the pages in a pass; None after two halvings, or where a pass has one page."""
        if len(self.halvings) >= MOST_HALVINGS or self.micro_batch == 1:
            return None
        smaller = replace(self, micro_batch=-(-self.micro_batch // 2))
        return replace(smaller, halvings=[*self.halvings, {"after_step": after_step, **smaller.settings}])

    def after(self, halvings: Sequence[dict[str, int]]) -> "BatchPlan":
        """Return the plan as earlier attempts of this training left it; the longer list of halvings counts."""
        if len(halvings) <= len(self.halvings):
            return self
        reached = halvings[-1]["per_device_train_batch_size"]
        return replace(self, micro_batch=min(self.micro_batch, reached), halvings=list(halvings))

    def as_json(self) -> dict[str, Any]:
        """Return the part of ``training.json`` about it."""
        return {**self.settings, "fitted": self.fitted, "halvings": list(self.halvings)}


def configured_plan(config: TrainConfig) -> BatchPlan:
    """Return the plan that the config names."""
    batch = config.per_device_train_batch_size
    return BatchPlan(loaded=batch, loads=config.gradient_accumulation_steps, micro_batch=batch)


def fitted_plan(config: TrainConfig, micro_batch: int) -> BatchPlan:
    """Return the plan of ``fit_batch``: all pages of a step are loaded at once, and their order depends on no fit."""
    pages = pages_per_step(config)
    passes = -(-pages // micro_batch)
    return BatchPlan(loaded=pages, loads=1, micro_batch=-(-pages // passes), fitted=True)


def pages_per_step(config: TrainConfig) -> int:
    """Return how many pages one process takes in an optimizer step."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps


def in_words(settings: Mapping[str, int]) -> str:
    """Return settings, or a halving, as text.

    >>> in_words({"after_step": 3, "per_device_train_batch_size": 2})
    'after_step 3, per_device_train_batch_size 2'
    """
    return ", ".join(f"{name} {value}" for name, value in settings.items())
