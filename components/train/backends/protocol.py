"""The protocol of a training backend, and what it returns.

Nothing here imports transformers or peft at run time: Unsloth patches both and must be imported before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from components.shared.artifacts.training_record import BackendName
from components.shared.models.model_families import ModelFamily
from components.train.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class AdapterStart:
    """The adapter's initial values by their saved names, if they replace a part of the base, and facts on them."""

    values: dict[str, torch.Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class TrainableModel:
    """A model whose trainable weights require gradients, and the processor that belongs to it.

    ``details`` are facts for ``training.json``, such as which weights are quantised. ``checkpoints_itself``: the
    backend has set up gradient checkpointing if the config asks for it, so the Trainer must not. ``start`` must be
    subtracted from the saved adapter.
    """

    model: PreTrainedModel | PeftModel
    processor: ProcessorMixin
    family: ModelFamily
    details: dict[str, Any] = field(default_factory=dict)
    checkpoints_itself: bool = False
    start: AdapterStart | None = None


class Backend(Protocol):
    """Loads a base model and makes the configured weights trainable."""

    name: BackendName

    def load(self, config: TrainConfig) -> TrainableModel:
        """Return the model, ready for a transformers Trainer.

        Raises:
            UserError: the model cannot be loaded, or a setting does not fit it or this machine.
        """
        ...
