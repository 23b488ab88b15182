"""Loads a model with Unsloth and prepares it with ``for_inference`` for reading pages; needs a CUDA device.

This module does not import transformers or peft at the top: Unsloth patches both and must be imported first.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.errors import UserError
from components.shared.models.allocator_settings import let_segments_grow

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_FIRST_WITH_BFLOAT16 = 8  # the major compute capability


def obstacle_to_unsloth() -> str | None:
    """Return why Unsloth cannot run here; None if it can."""
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device on this machine"
    if importlib.util.find_spec("unsloth") is None:
        return "the unsloth package is not installed"
    return None


def obstacle_to_bfloat16() -> str | None:
    """Return why Unsloth cannot compute in bfloat16 on this machine's CUDA devices; None if it can. Starts CUDA.

    Without bfloat16 Unsloth silently loads models in float16.
    """
    let_segments_grow()
    import torch

    # With several processes Unsloth decides by the weakest visible device: no process has its own device yet.
    alone = int(os.environ.get("WORLD_SIZE") or 1) == 1
    devices: Iterable[int | None] = [None] if alone else range(torch.cuda.device_count())
    major, minor = min(torch.cuda.get_device_capability(device) for device in devices)
    if major < _FIRST_WITH_BFLOAT16:
        return f"in bfloat16 it needs compute capability {_FIRST_WITH_BFLOAT16}.0, a GPU here has {major}.{minor}"
    return None


def import_unsloth() -> Any:
    """Import and return Unsloth, before transformers and peft if the process has not imported them yet.

    Raises:
        UserError: it cannot run here in bfloat16, the dtype in which models read pages on a GPU.
    """
    if obstacle := obstacle_to_unsloth() or obstacle_to_bfloat16():
        raise UserError(f"Unsloth cannot run: {obstacle}", where="backend", mend="set it to standard")
    # By default Unsloth sends usage statistics over the network.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    import unsloth

    return unsloth


def load_with_unsloth(
    base_model: str,
    adapter_dir: Path | None,
    *,
    dtype: torch.dtype,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load the base, the adapter on it, or a whole fine-tuned model, as ``load_model`` and ``load_fine_tuned`` do.

    Raises:
        UserError: Unsloth cannot run here or cannot load the model, or the adapter does not fit it.
    """
    vision_model = import_unsloth().FastVisionModel
    from components.shared.models.adapter_loading import adapter_kind, with_adapter
    from components.shared.models.base_models import base_model_location
    from components.shared.models.model_loading import default_device
    from components.shared.models.weight_files import refuse_pickled_weights

    whole = adapter_dir is not None and adapter_kind(adapter_dir) == "model"
    location = str(adapter_dir) if whole else base_model_location(base_model)
    refuse_pickled_weights(Path(location))
    try:
        model, _ = vision_model.from_pretrained(
            location,
            dtype=dtype,
            # Without it Unsloth allocates memory on every visible device and may split the model over them.
            device_map={"": str(default_device())},
            load_in_4bit=False,
            use_gradient_checkpointing=False,
            revision=None if whole else revision,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"Unsloth cannot load the model ({error})", where=f"base_model {location}") from error
    if adapter_dir is not None and not whole:
        model = with_adapter(model, base_model, adapter_dir)
    vision_model.for_inference(model)
    read: PreTrainedModel = model.eval()
    return read
