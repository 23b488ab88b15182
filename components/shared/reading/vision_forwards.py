"""Replaces ``forward`` methods in a model's vision part, in the only order that works."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.reading.sam_attention import fold_position_biases
from components.shared.reading.segment_attention import attend_by_segment_length
from components.shared.reading.vision_microbatches import encode_in_microbatches, vision_encoder

_MARK = "_runs_without_gradients"

Forward = Callable[..., Any]


def install_vision_forwards(
    model: PreTrainedModel | PeftModel,
    frozen: Sequence[torch.nn.Module] = (),
    record: Callable[[Forward], Forward] | None = None,
) -> None:
    """Replace the ``forward`` methods of ``model``'s vision part, from the innermost to the outermost.

    1. SAM's attention layers attend without a table of position biases; on a GPU, layers over packed pictures attend
       by segment length instead of segment by segment.
    2. ``record`` wraps the vision encoder if it is frozen: it must see one microbatch at a time.
    3. An encoder whose rows are pictures takes them in microbatches, but only where no gradients are computed.
    4. The ``frozen`` parts run without gradients, so that 3 applies to them in training too.

    A second call installs only what is missing.
    """
    fold_position_biases(model)
    if model.device.type == "cuda":
        attend_by_segment_length(model)
    new = [part for part in frozen if not getattr(part, _MARK, False)]
    encoder = vision_encoder(model)
    if record and encoder in new:
        encoder.forward = record(encoder.forward)
    encode_in_microbatches(model)
    for part in new:
        _run_without_gradients(part)
        setattr(part, _MARK, True)


def _run_without_gradients(part: torch.nn.Module) -> None:
    forward = part.forward
    checkpointed = [module for module in part.modules() if hasattr(module, "gradient_checkpointing")]

    @functools.wraps(forward)
    def plain_forward(*inputs: Any, **options: Any) -> Any:
        # Disabled at each call, because the Trainer and Unsloth enable checkpointing again when training starts.
        for module in checkpointed:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        with torch.no_grad():
            return forward(*inputs, **options)

    part.forward = plain_forward
