"""What a training backend does, and which one is chosen.

Nothing here imports transformers or peft at run time: Unsloth patches both, and wants to be imported first.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from components.shared.allocator_settings import let_segments_grow
from components.shared.errors import UserError
from components.shared.model_families import ModelFamily
from components.shared.unsloth_inference import obstacle_to_bfloat16, obstacle_to_unsloth
from components.train.backends.compile_cache import use_compile_cache
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

    name: str

    def load(self, config: TrainConfig) -> TrainableModel:
        """Return the model, ready for a transformers Trainer.

        Raises:
            UserError: the model cannot be loaded, or a setting does not fit it or this machine.
        """
        ...


def choose_backend(config: TrainConfig) -> tuple[Backend, str]:
    """Return the backend and the reason for it, in words.

    Raises:
        UserError: the config asks for Unsloth, or for an optimizer, where it cannot run.
    """
    if config.optim == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "adamw_8bit needs the bitsandbytes package", where="optim", mend="install the gpu extra, or use adamw_torch"
        )
    if config.backend == "standard":
        return _standard(), "asked for by the config"
    obstacle, mend = obstacle_to_unsloth(), "set it to standard or auto"
    if obstacle is None and config.dtype != "float32":
        # Before Unsloth is imported: it takes torch's emulation of bfloat16 away, from the standard backend too.
        obstacle, mend = obstacle_to_bfloat16(), "set dtype to float32, or backend to standard"
    if config.backend == "unsloth":
        if obstacle:
            raise UserError(f"Unsloth cannot run: {obstacle}", where="backend", mend=mend)
        return _unsloth(config), "asked for by the config"
    if obstacle:
        return _standard(), obstacle
    return _unsloth(config), "a CUDA device and the unsloth package are there"


def _standard() -> Backend:
    let_segments_grow()
    from components.train.backends.standard import StandardBackend

    return StandardBackend()


def _unsloth(config: TrainConfig) -> Backend:
    use_compile_cache(config.compile_cache_dir)
    # Unsloth counts its users over the network unless told not to.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    from components.train.backends.unsloth import UnslothBackend

    return UnslothBackend()
