"""What a training backend does, and which one is chosen.

Nothing here imports transformers or peft at run time: Unsloth patches both, and wants to be imported first.
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
    """The adapter's first values by their saved names, where they stand for a part of the base; facts on them."""

    values: dict[str, torch.Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class TrainableModel:
    """A model whose trainable weights require gradients, and the processor that belongs to it.

    ``details`` are facts worth keeping beside the result, such as what was quantised. ``checkpoints_itself`` says that
    gradient checkpointing, where asked for, is set up already and not the Trainer's. ``start`` is to be subtracted
    from the adapter that is saved.
    """

    model: PreTrainedModel | PeftModel
    processor: ProcessorMixin
    family: ModelFamily
    details: dict[str, Any] = field(default_factory=dict)
    checkpoints_itself: bool = False
    start: AdapterStart | None = None


class Backend(Protocol):
    """Loads a base model and makes the configured part of it trainable."""

    name: BackendName

    def load(self, config: TrainConfig) -> TrainableModel:
        """Return the model, ready for a transformers Trainer.

        Raises:
            UserError: the model cannot be loaded, or a setting does not fit it or this machine.
        """
        ...
