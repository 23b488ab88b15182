"""Runs the frozen vision encoder and projector without gradients.

Gradient checkpointing needs an input that requires a gradient, so transformers (``enable_input_require_grads``) and
Unsloth set that flag on the first layer of every part, the vision encoder included. Autograd would then run backwards
through the whole frozen encoder, and recompute it, for gradients that nothing uses.
"""

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.models.model_families import in_language_model
from components.shared.reading.vision_forwards import install_vision_forwards
from components.shared.reading.vision_microbatches import vision_encoder
from components.train.vision.recorded_vision import recorded


def inner_model(model: PreTrainedModel | PeftModel) -> Any:
    """Return the model without adapter and head; the vision encoder and ``language_model`` are its children."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(bare, "model", bare)


def parts_before_the_language_model(model: PreTrainedModel | PeftModel) -> dict[str, torch.nn.Module]:
    """Return the vision encoder, the projector and other parts beside ``language_model``, by name.

    Empty if the model is not divided like this.
    """
    inner = inner_model(model)
    parts = dict(inner.named_children())
    if not (language := [name for name in parts if in_language_model(f"{name}.")]):
        return {}
    return {name: part for name, part in parts.items() if name not in language}


def run_frozen_parts_without_gradients(model: PreTrainedModel | PeftModel) -> list[str]:
    """Disable gradients in each part before the language model that needs none; return the parts' names.

    Those are the parts without a trainable weight. If another part is trained, gradients must pass through what comes
    after it, for instance the projector after a trained vision encoder; then only a frozen encoder needs none.
    A frozen vision encoder also processes the pictures in microbatches, and on a GPU replays a CUDA graph for each.
    Losses and the gradients of the trained weights stay the same up to rounding. A second call changes nothing.
    """
    parts = parts_before_the_language_model(model)
    frozen = [name for name, part in parts.items() if not any(weight.requires_grad for weight in part.parameters())]
    if len(frozen) < len(parts):
        frozen = [name for name in frozen if parts[name] is vision_encoder(model)]
    encoder = vision_encoder(model)
    if any(parts[name] is encoder for name in frozen):
        _attend_without_flex(encoder)
    install_vision_forwards(model, [parts[name] for name in frozen], recorded)
    return frozen


def _attend_without_flex(encoder: Any) -> None:
    """Let an encoder attend by sdpa where flex attention was set for the whole model: Unsloth does so for Gemma 3.

    Flex attention must be compiled. A recording would call it uncompiled, which PyTorch refuses, and after that it
    cannot compile flex attention for the language model either.
    """
    if getattr(getattr(encoder, "config", None), "_attn_implementation", None) == "flex_attention":
        encoder.set_attn_implementation("sdpa")
