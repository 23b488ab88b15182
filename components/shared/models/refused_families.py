"""Models that this project cannot train, recognised by their config before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.hub import hub_is_reachable, named_refusals
from components.shared.models.model_families import ModelFamily, family_of

_CONFIG = "config.json"
_ENCODER_DECODERS = {
    *("florence2", "donut", "donut-swin", "vision-encoder-decoder", "pix2struct", "nougat", "udop", "t5gemma2"),
    *("pp_formulanet", "instructblip", "instructblipvideo"),
}
"""Values of ``model_type``; the image goes into an encoder, and the labels are a separate sequence of the decoder."""
_PUBLISHED_DEEPSEEK = "deepseek_vl_v2"
"""``model_type`` of three published models of different architectures; the first DeepSeek-OCR is the one known here."""
_KNOWN_DEEPSEEK_CLASS = "DeepseekOCRForCausalLM"


def check_family_is_supported(base_model: str, revision: str | None = None) -> None:
    """Reject a model whose family is known not to work, by its name or its ``config.json``.

    A config that is not local and cannot be downloaded passes: loading the model reports that.

    Raises:
        UserError: DeepSeek-VL2 or DeepSeek-OCR-2 in their published form, or an encoder-decoder.
    """
    config = _config_of(base_model_location(base_model), revision, base_model)
    where = f"base_model {base_model!r}"
    model_type = str(config.get("model_type"))
    classes = config.get("architectures") or []
    if model_type == _PUBLISHED_DEEPSEEK and _KNOWN_DEEPSEEK_CLASS not in classes:
        raise UserError(
            f"{', '.join(classes) or 'a deepseek_vl_v2 without a class name'} has no class in transformers under these"
            " names, and its published code does not load with version 5",
            where=where,
            mend="use deepseek-community/DeepSeek-OCR-2, which has transformers' names, or deepseek-ai/DeepSeek-OCR",
        )
    if model_type in _ENCODER_DECODERS or config.get("is_encoder_decoder"):
        raise UserError(
            f"{model_type} is an encoder-decoder; supported are models that read a page as tokens of the prompt",
            where=where,
            mend="choose a family of docs/models.md, for instance deepseek-community/DeepSeek-OCR-2 or PaddleOCR-VL",
        )


def base_family(base_model: str, revision: str | None = None) -> ModelFamily:
    """Return the base model's family; one with the default values if its config cannot be had here."""
    return family_of(str(_config_of(base_model_location(base_model), revision, base_model).get("model_type")))


def _config_of(location: str, revision: str | None, base_model: str) -> dict[str, Any]:
    path: Any = Path(location) / _CONFIG
    if not Path(location).is_dir():
        path = try_to_load_from_cache(location, _CONFIG, revision=revision)
        if not isinstance(path, str):
            if not hub_is_reachable():
                return {}
            with named_refusals(f"base_model {base_model!r}"):
                path = hf_hub_download(location, _CONFIG, revision=revision)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # loading the model reports it
    return content if isinstance(content, dict) else {}
