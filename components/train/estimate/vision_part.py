"""Traces a frozen vision encoder on the meta device as the training runs it.

Three differences from a plain forward pass: CUDA graph recordings keep memory (``recording_bytes``, a static part of
the estimate), the encoder runs in microbatches, of which one per shape is traced (``encode_each_shape_once``), and with
``vision_features_dir`` the features come with the batch, so that the encoder is not counted (``serve_kept_features``).
"""

import functools
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from components.shared.reading.vision_microbatches import PIXELS_AT_ONCE, encoder_of_pictures, vision_encoder
from components.train.estimate.step_trace import MemoryTrace
from components.train.vision.frozen_vision import inner_model
from components.train.vision.recorded_vision import LARGEST_INPUT


def recording_bytes(model: PreTrainedModel | PeftModel, batch: dict[str, Any], workspace: int) -> int:
    """Return the bytes that CUDA graph recordings of a frozen encoder keep; 0 without a frozen encoder.

    They are the pixels of one call and ``workspace`` bytes for each of two additional streams. ``batch`` is the model's
    input. An encoder whose rows are pictures takes a microbatch, others the whole batch unless it is too large.
    """
    encoder = vision_encoder(model)
    if encoder is None or any(weight.requires_grad for weight in encoder.parameters()):
        return 0
    pixels = [value for name, value in batch.items() if name.startswith("pixel_values") and value.is_floating_point()]
    if encoder_of_pictures(model) is not None:
        pixels = [value[: max(1, PIXELS_AT_ONCE // value[0, 0].numel())] for value in pixels if value.dim() == 4]
    recorded = [value for value in pixels if value.numel() <= LARGEST_INPUT]
    return 2 * workspace * bool(recorded) + sum(value.numel() * value.element_size() for value in recorded)


def encode_each_shape_once(model: PreTrainedModel | PeftModel) -> None:
    """Trace the encoder only for the first microbatch of each shape: all need the same, and 512 pages make 128.

    Call it before ``run_frozen_parts_without_gradients`` splits the pictures into microbatches. A pass with gradients
    is not changed.
    """
    encoder = encoder_of_pictures(model)
    if encoder is None:
        return
    forward = encoder.forward
    traced: dict[torch.Size, tuple[Any, dict[str, Any]]] = {}

    @functools.wraps(forward)
    def forward_once(pixel_values: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            return forward(pixel_values, *inputs, **options)
        if pixel_values.shape in traced:
            kind, shapes = traced[pixel_values.shape]
            return kind(**{name: _same_size(value) for name, value in shapes.items()})
        output = forward(pixel_values, *inputs, **options)
        # Keep shapes only: a kept tensor would count until the trace ends.
        traced[pixel_values.shape] = type(output), {name: _shape_only(value) for name, value in output.items()}
        return output

    encoder.forward = forward_once


def _shape_only(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.device
    return value if value is None else [_shape_only(each) for each in value]


def _same_size(kept: Any) -> Any:
    if isinstance(kept, tuple) and isinstance(kept[0], torch.Size):
        shape, dtype, device = kept
        return torch.empty(shape, dtype=dtype, device=device)
    return kept if kept is None else tuple(_same_size(each) for each in kept)


def serve_kept_features(model: PreTrainedModel | PeftModel, trace: MemoryTrace) -> None:
    """Serve the pictures' features as a part of the batch, alive as long as the batch; do not count the encoder."""
    inner = inner_model(model)
    compute = inner.get_image_features
    features: list[torch.Tensor] = []

    def served(*inputs: Any, **options: Any) -> Any:
        with trace.not_counting():
            output = compute(*inputs, **options)
        if not isinstance(getattr(output, "pooler_output", None), list | tuple):
            raise ValueError("its vision part hands over something else than features of each picture")
        if not features:
            features.extend(torch.empty(each.shape, dtype=each.dtype, device="meta") for each in output.pooler_output)
        output.pooler_output = tuple(features)
        return output

    inner.get_image_features = served
