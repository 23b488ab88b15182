"""Runs the vision encoder on a few of a batch's pictures at a time: its activations are large and not needed later.

Four pages of 1,024 pixels take 0.52 GiB in DeepSeek-OCR-2's encoder without gradients (H100,
docs/benchmarks/training/run-13-vision-encoder.txt), and 3.2 GiB if SAM's attention uses its table of position biases
(``sam_attention.py``). A batch can have more than a hundred pages.
"""

import functools
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from components.shared.models.model_families import family_of

# Four pages of 1,024 pixels. Smaller microbatches cost more launches: 11.4 ms for one page, 34.9 ms for four.
PIXELS_AT_ONCE = 4 * 1024 * 1024

_MARK = "_encodes_in_microbatches"
_ENCODER_NAMES = ("vision_tower", "visual", "vision_model", "vision_encoder")


def encode_in_microbatches(model: PreTrainedModel | PeftModel, pixels_at_once: int = PIXELS_AT_ONCE) -> bool:
    """Make ``model``'s vision encoder process a few pictures at a time whenever it runs without gradients.

    The features are the same up to the kernels' rounding. Returns whether the model's family allows it: each row of
    the encoder's input must be a separate picture (``ModelFamily.vision_rows_are_pictures``).
    """
    encoder = encoder_of_pictures(model)
    if encoder is None:
        return False
    if getattr(encoder, _MARK, False):
        return True
    forward = encoder.forward

    @functools.wraps(forward)
    def forward_in_microbatches(pixel_values: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        height, width = pixel_values.shape[-2:]
        pictures = max(1, pixels_at_once // (height * width))
        if len(pixel_values) <= pictures or torch.is_grad_enabled():
            return forward(pixel_values, *inputs, **options)
        return _joined([forward(part, *inputs, **options) for part in pixel_values.split(pictures)])

    encoder.forward = forward_in_microbatches
    setattr(encoder, _MARK, True)
    return True


def encoder_of_pictures(model: PreTrainedModel | PeftModel) -> Any:
    """Return the vision encoder if each row of its input is a picture or a tile; None in other families."""
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    encoder = getattr(getattr(bare, "model", bare), "vision_tower", None)
    return encoder if family_of(bare.config.model_type).vision_rows_are_pictures else None


def vision_encoder(model: PreTrainedModel | PeftModel) -> Any:
    """Return the vision encoder of any family; None if it has none of the usual names."""
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner = getattr(bare, "model", bare)
    found = (getattr(inner, name, None) for name in _ENCODER_NAMES)
    return next((encoder for encoder in found if encoder is not None), None)


def _joined(outputs: list[ModelOutput]) -> ModelOutput:
    def join(values: tuple[Any, ...]) -> Any:
        if isinstance(values[0], torch.Tensor):
            return torch.cat(values)
        return None if values[0] is None else tuple(join(layer) for layer in zip(*values, strict=True))

    names = outputs[0].keys()
    return type(outputs[0])(**{name: join(tuple(output[name] for output in outputs)) for name in names})
