"""No gradients through what is not trained: the frozen vision encoder and projector.

Gradient checkpointing needs one input that requires a gradient, so transformers (``enable_input_require_grads``) and
Unsloth set that flag on the first layer of every part, the vision encoder's too. Autograd then goes back through the
whole frozen encoder, and computes it a second time for that, to find gradients that nobody uses.
"""

import functools
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.reading.sam_attention import fold_position_biases
from components.shared.reading.vision_microbatches import encode_in_microbatches, encoder_of_pictures
from components.train.vision.recorded_vision import recorded

_MARK = "_runs_without_gradients"


def inner_model(model: PreTrainedModel | PeftModel) -> Any:
    """Return the model without adapter and head, which has the vision encoder and ``language_model`` as its parts."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(bare, "model", bare)


def parts_before_the_language_model(model: PreTrainedModel | PeftModel) -> dict[str, torch.nn.Module]:
    """Return the vision encoder, the projector and what else stands there, by name; empty without such a division."""
    inner = inner_model(model)
    if not hasattr(inner, "language_model"):
        return {}
    return {name: part for name, part in inner.named_children() if name != "language_model"}


def run_frozen_parts_without_gradients(model: PreTrainedModel | PeftModel) -> list[str]:
    """Make each part of ``model`` in front of the language model that has no trainable weight a plain function.

    A frozen vision encoder takes the pictures in microbatches, on a GPU by replaying what it does with one. Losses and
    the gradients of the trained weights stay what they were, up to rounding. Returns the parts' names. A second call,
    for a second training of the model, changes nothing.
    """
    parts = parts_before_the_language_model(model)
    frozen = [name for name, part in parts.items() if not any(weight.requires_grad for weight in part.parameters())]
    fold_position_biases(model)
    new = [parts[name] for name in frozen if not getattr(parts[name], _MARK, False)]
    encoder = encoder_of_pictures(model)
    if encoder in new:
        encoder.forward = recorded(encoder.forward)
    encode_in_microbatches(model)  # inside of the block without gradients: with them it takes all pictures at once
    for part in new:
        _run_without_gradients(part)
        setattr(part, _MARK, True)
    return frozen


def _run_without_gradients(part: torch.nn.Module) -> None:
    forward = part.forward
    checkpointed = [module for module in part.modules() if hasattr(module, "gradient_checkpointing")]

    @functools.wraps(forward)
    def plain_forward(*inputs: Any, **options: Any) -> Any:
        # Set at each call: the Trainer and Unsloth switch checkpointing on again when training starts.
        for module in checkpointed:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        with torch.no_grad():
            return forward(*inputs, **options)

    part.forward = plain_forward
