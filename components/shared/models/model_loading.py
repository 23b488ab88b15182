"""Loads processors and models by name or folder, with one code path for every family in transformers."""

import gc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import processor_class_from_name

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.deepseek_ocr.registration import register_deepseek_ocr
from components.shared.models.hub import hub_is_reachable
from components.shared.models.refused_families import check_family_is_supported
from components.shared.models.weight_files import refuse_pickled_weights

register_deepseek_ocr()

_OF_FOREIGN_FILES = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RecursionError)
"""What transformers raises on configs that lack a value, hold one of another type, or are nested too deeply."""


def load_processor(base_model: str, revision: str | None = None, trust_remote_code: bool = False) -> ProcessorMixin:
    """Load a model's processor.

    Raises:
        UserError: no such folder, no network for a hub model, or files that are not a processor.
    """
    check_family_is_supported(base_model, revision)
    location = base_model_location(base_model)
    options = {**hub_options(location), "revision": revision, "trust_remote_code": trust_remote_code}
    try:
        try:
            return AutoProcessor.from_pretrained(location, **options)
        except ImportError:
            return _assembled_processor(location, options)
    except UserError:
        raise
    except Exception as error:  # tokenizers and the processors' own code raise any type, even plain Exception
        raise _loading_error(base_model, error) from error


def load_model(
    base_model: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Load a model's weights in ``dtype`` onto ``device``; ``options`` go to ``from_pretrained``.

    Raises:
        UserError: no such folder, no network for a hub model, an unknown architecture, unreadable or pickled weights,
            or a package that the model asks for and that is not installed.
    """
    location = base_model_location(base_model)
    refuse_pickled_weights(Path(location))
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            location,
            dtype=dtype,
            device_map={"": device} if device.type != "cpu" else None,
            revision=revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **hub_options(location),
            **options,
        )
    except SafetensorError as error:
        raise UserError(
            f"the weights cannot be read: the file is truncated or corrupt ({error})",
            where=f"base_model {base_model!r}",
            mend="copy or download the model again",
        ) from error
    except _OF_FOREIGN_FILES as error:
        raise _loading_error(base_model, error) from error
    return model


def model_type_of(base_model: str, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """Return the ``model_type`` in a model's config, without loading its weights."""
    return str(config_of(base_model, revision, trust_remote_code).model_type)


def config_of(base_model: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return a model's config, a ``PreTrainedConfig``, without loading its weights."""
    check_family_is_supported(base_model, revision)
    location = base_model_location(base_model)
    try:
        return AutoConfig.from_pretrained(
            location, revision=revision, trust_remote_code=trust_remote_code, **hub_options(location)
        )
    except _OF_FOREIGN_FILES as error:
        raise _loading_error(base_model, error) from error


def release_memory() -> None:
    """Free the device memory of deleted models and batches so that the next one can use it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def default_device() -> torch.device:
    """Return the process's current CUDA device (the first unless another was set), or the CPU if there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a GPU and float32 for a CPU, where bfloat16 did not speed up the tiny base's training."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def hub_options(location: str) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` that keep it off the network for a folder, or without a network."""
    return {"local_files_only": Path(location).is_dir() or not hub_is_reachable()}


def _assembled_processor(location: str, options: dict[str, Any]) -> ProcessorMixin:
    # transformers 5.17: processors that still name an `image_processor_class` are loaded through a lookup that
    # asks for torchvision, although AutoImageProcessor itself falls back to Pillow. There is no torchvision for
    # CPU-only torch on PyPI.
    tokenizer = AutoTokenizer.from_pretrained(location, **options)
    image_processor = AutoImageProcessor.from_pretrained(location, **options)
    settings, _ = ProcessorMixin.get_processor_dict(location)
    processor_class = processor_class_from_name(settings["processor_class"])
    return processor_class(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=settings.get("chat_template")
    )


def _loading_error(base_model: str, error: Exception) -> UserError:
    # Several lines, because the first may be only "There was a specific connection error" and the second say 401.
    said = " ".join(str(error).split())[:300] or type(error).__name__
    mend = "check the folder; a hub id needs a network, or the model in the local hub cache"
    if isinstance(error, ImportError):
        mend = "install what it names; FlashAttention is not needed: write sdpa where the model's config.json names it"
    if find_spec("torchvision") is None and ("orchvision" in said or "video_processor" in said):
        mend = (
            "install torchvision (for a CPU: pip install torchvision --index-url https://download.pytorch.org/whl/cpu)"
        )
    return UserError(f"the model cannot be loaded ({said})", where=f"base_model {base_model!r}", mend=mend)
