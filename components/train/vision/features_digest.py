"""Identifies the vision part that computed a page's features, and checks whether they can be reused."""

import hashlib
import json
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily
from components.train.vision.frozen_vision import inner_model, parts_before_the_language_model

_DIGEST_LETTERS = 32


def vision_digest(
    model: PreTrainedModel | PeftModel, processor: ProcessorMixin, family: ModelFamily, autocast: torch.dtype | None
) -> str:
    """Return a digest of all that a page's features depend on besides the page.

    It covers the vision part's weights as they are in memory (and so their precision), its settings and attention
    implementation, the image processor's settings, the version of transformers, the type of device and mixed precision.
    """
    inner = inner_model(model)
    vision_config = getattr(inner.config, "vision_config", None)
    mode = {
        "vision_config": vision_config.to_dict() if vision_config else None,
        "attention": [getattr(vision_config, "_attn_implementation", None), "position biases folded"],
        "model": type(inner).__name__,
        "processor": [type(processor).__name__, processor.image_processor.to_dict(), family.image_options],
        "transformers": transformers.__version__,
        "device": inner.device.type,
        "autocast": autocast,
    }
    digest = hashlib.sha256(json.dumps(mode, sort_keys=True, default=str).encode())
    for name, values in sorted(_vision_values(model).items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_DIGEST_LETTERS]


def _vision_values(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    values = dict(inner_model(model).named_parameters(recurse=False))
    for part_name, part in parts_before_the_language_model(model).items():
        state: dict[str, Any] = part.state_dict()  # includes the scales of quantised weights, which are not parameters
        values |= {f"{part_name}.{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return values


def check_features_can_be_kept(model: PreTrainedModel | PeftModel) -> None:
    """Check that the vision encoder gives the same output for a page in every step.

    Raises:
        UserError: vision weights are trained, the vision part is random or changes during training, or the model does
            not return its features in a known way.
    """
    inner, parts = inner_model(model), parts_before_the_language_model(model)
    if not parts or not hasattr(inner, "get_image_features"):
        raise _refused(f"{type(inner).__name__} has no vision part that is apart from its language model")
    trained = [name for name, weight in inner.named_parameters(recurse=False) if weight.requires_grad]
    trained += [
        f"{part_name}.{name}"
        for part_name, part in parts.items()
        for name, weight in part.named_parameters()
        if weight.requires_grad
    ]
    if trained:
        raise UserError(
            f"{len(trained)} weights of the vision part are trained, first {trained[0]}, so its output changes",
            where="vision_features_dir",
            mend="name target_modules of the language model only, or leave vision_features_dir out",
        )
    for part_name, part in parts.items():
        for name, module in part.named_modules():
            if getattr(module, "p", 0) and isinstance(module, torch.nn.modules.dropout._DropoutNd):
                raise _refused(f"{part_name}.{name} drops values at random")
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                raise _refused(f"{part_name}.{name} normalises by the batch")
    if random := _random_settings(getattr(inner.config, "vision_config", None)):
        raise _refused(f"the vision part's {random} is random")


def _random_settings(vision_config: Any) -> str | None:
    """Return the name of a setting in the vision config (nested ones included) with a dropout rate above 0, or None."""
    nested = [vision_config.to_dict()] if vision_config else []
    while nested:
        for name, value in nested.pop().items():
            if isinstance(value, dict):
                nested.append(value)
            elif "drop" in str(name) and isinstance(value, float) and value > 0:
                return str(name)
    return None


def _refused(reason: str) -> UserError:
    return UserError(
        f"features cannot be kept for this model: {reason}", where="vision_features_dir", mend="leave it out"
    )
