"""Computes the position ids of multimodal rotary embeddings in the data loader, not in the model's forward pass.

Families with three-dimensional positions (Qwen-VL, PaddleOCR-VL) compute them sample by sample, with several device
synchronisations each. In the data loader's processes, the same function takes no GPU time.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.errors import UserError

_VALUES = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")


class RopePositions:
    """Calls a model's own ``get_rope_index`` on a copy without weights, which is cheap to send to data workers."""

    def __init__(self, inner_model: Any) -> None:
        with torch.device("meta"):
            twin = type(inner_model)(inner_model.config)
        self._position_ids: Callable[..., tuple[torch.Tensor, torch.Tensor]] = twin.get_rope_index

    def add_to(self, batch: dict[str, Any]) -> None:
        """Add ``position_ids`` of shape (3, pages, tokens) to a training batch."""
        batch["position_ids"], _ = self._position_ids(**{name: batch[name] for name in _VALUES})


def rope_positions_of(model: PreTrainedModel | PeftModel) -> RopePositions | None:
    """Return the position ids' source for ``model``; None for families with ordinary positions.

    Raises:
        UserError: the family computes them from other values than the processors of the known families give.
    """
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: Any = getattr(bare, "model", bare)
    if not hasattr(inner, "get_rope_index"):
        return None
    taken = inspect.signature(inner.get_rope_index).parameters.values()
    asked = {each.name for each in taken if each.default is each.empty and each.kind is not each.VAR_KEYWORD}
    if not set(_VALUES) <= {each.name for each in taken} or not asked <= set(_VALUES):
        raise UserError(
            f"{type(inner).__name__} computes its position ids from other values than {', '.join(_VALUES)}",
            where="base_model",
            mend="choose a family of docs/models.md",
        )
    return RopePositions(inner)
