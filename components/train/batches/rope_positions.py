"""Computes the position ids of multimodal rotary embeddings in the data loader, not in the model's forward pass.

Families with three-dimensional positions (Qwen-VL, PaddleOCR-VL) compute them sample by sample, with several device
synchronisations each. In the data loader's processes, the same function takes no GPU time.
"""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel


class RopePositions:
    """Calls a model's own ``get_rope_index`` on a copy without weights, which is cheap to send to data workers."""

    def __init__(self, inner_model: Any) -> None:
        with torch.device("meta"):
            twin = type(inner_model)(inner_model.config)
        self._position_ids: Callable[..., tuple[torch.Tensor, torch.Tensor]] = twin.get_rope_index

    def add_to(self, batch: dict[str, Any]) -> None:
        """Add ``position_ids`` of shape (3, pages, tokens) to a training batch."""
        batch["position_ids"], _ = self._position_ids(
            input_ids=batch["input_ids"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["image_grid_thw"],
            attention_mask=batch["attention_mask"],
        )


def rope_positions_of(model: PreTrainedModel | PeftModel) -> RopePositions | None:
    """Return the position ids' source for ``model``; None for families with ordinary positions."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    inner: Any = getattr(bare, "model", bare)
    return RopePositions(inner) if hasattr(inner, "get_rope_index") else None
