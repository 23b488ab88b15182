"""DeepSeek's own ``config.json``, which vLLM's classes for DeepSeek-OCR and DeepSeek-OCR-2 read."""

from typing import Any

from components.shared.errors import UserError
from components.shared.models.deepseek_ocr.published_config import published_language, published_parts

_ENCODER = "qwen2-0-5b"
# vLLM 0.32 builds the encoders with these sizes and reads none of a config's.
_BUILT_SAM = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
_BUILT_ENCODER = {
    **{"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
    "intermediate_size": 4864,
}
_BUILT_CLIP = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
# The published files say so, and vLLM demands it: how the rows of a page's tiles are separated.
_TILES: dict[str, Any] = {"tile_tag": "2D", "global_view_pos": "head", "candidate_resolutions": [[1024, 1024]]}


def second_deepseek_ocr(config: dict[str, Any]) -> dict[str, Any]:
    """Return transformers' configuration of a DeepSeek-OCR-2 in the published form.

    Raises:
        UserError: its vision encoder has other sizes than those that vLLM builds.
    """
    sam, encoder = config["vision_config"]["sam_config"], config["vision_config"]["encoder_config"]
    _check_sizes(sam, _BUILT_SAM)
    _check_sizes(encoder, _BUILT_ENCODER)
    said = published_language(config["text_config"])
    language = {**said, **{name: said[name] or 1 for name in ("n_group", "topk_group")}}
    return {
        "architectures": ["DeepseekOCR2ForCausalLM"],
        "model_type": "deepseek_vl_v2",
        **_kept(config),
        **_TILES,
        **published_parts(
            language,
            features=encoder["hidden_size"],
            image_size=sam["image_size"],
            widths={_ENCODER: {"dim": encoder["hidden_size"]}},
        ),
    }


def first_deepseek_ocr(config: dict[str, Any]) -> dict[str, Any]:
    """Return the published configuration of a first DeepSeek-OCR with what vLLM needs, and this project leaves out.

    Raises:
        UserError: its vision encoders have other sizes than those that vLLM builds.
    """
    widths = config["vision_config"]["width"]
    names = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
    for part, built in (("sam_vit_b", _BUILT_SAM), ("clip-l-14-224", _BUILT_CLIP)):
        told = {names.get(name, name): value for name, value in built.items()}
        _check_sizes({**told, **widths.get(part, {})}, told)  # what a config leaves out has the published size
    # Our config names its own class as the language model's type; vLLM would take that for the whole model's.
    language = {name: value for name, value in config["language_config"].items() if name != "model_type"}
    published = {**config, "language_config": language, "architectures": ["DeepseekOCRForCausalLM"]}
    return {**published, "model_type": "deepseek_vl_v2", **_TILES}


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("dtype", "tie_word_embeddings", "image_token_id") if name in config}


def _check_sizes(found: dict[str, Any], built: dict[str, Any]) -> None:
    others = [f"{name} {found[name]} (vLLM: {value})" for name, value in built.items() if found.get(name) != value]
    if others:
        raise UserError(
            f"vLLM builds this family's vision encoder in one size, and the base has another: {', '.join(others)}",
            where="export.serving",
            mend="leave vllm out; `deepsynth serve` serves this model",
        )
