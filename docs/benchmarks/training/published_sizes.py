"""Sizes of one published checkpoint of each family, over the tiny models of tests/fixtures.

A memory estimate needs a config, a processor and no weights. The tiny model's maker writes both, with a tokenizer of
bytes; here its sizes are replaced by the published ones. The values were written down without downloading the
checkpoints' config.json, and what a row leaves out is the default of transformers' config class. So each row is checked
by the number of parameters that ``families_memory.py`` prints, which is the checkpoint's own plus the adapter's.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """A checkpoint's name, and changes of the tiny model's config and processor by JSON path."""

    checkpoint: str
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)


def _text(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, head: int, words: int, **more: Any
) -> dict[str, Any]:
    return {
        **{"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head, "vocab_size": words},
        **{"layer_types": None, **more},
    }


def _encoder(hidden: int, inner: int, layers: int, heads: int, image: Any, patch: Any = 14) -> dict[str, Any]:
    return {
        **{"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "image_size": image, "patch_size": patch},
    }


def _square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


_SO400M = (1152, 4304)
_QWEN2_HALF = (896, 4864, 24, 14, 2, 64)
_MROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
_GLM_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GLM_HALF_ROPE = {**_GLM_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
_ANY_SIZE = {"size": {"shortest_edge": 56 * 56, "longest_edge": 14 * 14 * 4 * 1280}}

PUBLISHED: dict[str, Sizes] = {
    "gemma3": Sizes(
        "google/gemma-3-4b-it",
        _text(2560, 10240, 34, 8, 4, 256, 262208, sliding_window=1024, query_pre_attn_scalar=256),
        _encoder(*_SO400M, 27, 16, 896),
        {"mm_tokens_per_image": 256, "tie_word_embeddings": True},
        _square(896),
        {"image_seq_length": 256},
    ),
    "mllama": Sizes(
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        _text(4096, 14336, 40, 32, 8, 128, 128256, cross_attention_layers=[3, 8, 13, 18, 23, 28, 33, 38]),
        {
            **{"hidden_size": 1280, "intermediate_size": 5120, "attention_heads": 16, "num_hidden_layers": 32},
            **{"num_global_layers": 8, "image_size": 560, "max_num_tiles": 4, "vision_output_dim": 7680},
            "intermediate_layers_indices": [3, 7, 15, 23, 30],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        pictures={**_square(560), "max_image_tiles": 4},
    ),
    "got_ocr2": Sizes(
        "stepfun-ai/GOT-OCR-2.0-hf",
        _text(1024, 2816, 24, 16, 16, 64, 151860, tie_word_embeddings=True),
        {
            **{"hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12, "num_attention_heads": 12},
            **{"image_size": 1024, "patch_size": 16, "mlp_dim": 3072, "window_size": 14},
            "global_attn_indexes": [2, 5, 8, 11],
        },
        {"image_seq_length": 256, "tie_word_embeddings": True},
        _square(1024),
    ),
    "paligemma": Sizes(
        "google/paligemma-3b-pt-448",
        _text(2048, 16384, 18, 8, 1, 256, 257216, tie_word_embeddings=True),
        {**_encoder(*_SO400M, 27, 16, 448), "projection_dim": 2048},
        {"projection_dim": 2048, "hidden_size": 2048, "tie_word_embeddings": True},
        {**_square(448), "image_seq_length": 1024},
    ),
    "llava": Sizes(
        "llava-hf/llava-1.5-7b-hf",
        _text(4096, 11008, 32, 32, 32, 128, 32064),
        {**_encoder(1024, 4096, 24, 16, 336), "projection_dim": 768},
        {"image_seq_length": 576},
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    ),
    "lighton_ocr": Sizes(
        "lightonai/LightOnOCR-1B-1025",
        _text(1024, 3072, 28, 16, 8, 128, 151936, tie_word_embeddings=True),
        {**_encoder(1024, 4096, 24, 16, 1540), "head_dim": 64},
        {"tie_word_embeddings": True},
        {"size": {"longest_edge": 1540}},
    ),
    "kosmos-2.5": Sizes(
        "microsoft/kosmos-2.5",
        {
            "vocab_size": 108481,
            "embed_dim": 1536,
            "layers": 24,
            "ffn_dim": 6144,
            "attention_heads": 16,
            "tie_word_embeddings": True,
        },
        {"hidden_size": 1536, "d_ff": 3968, "d_kv": 64, "num_hidden_layers": 18, "num_attention_heads": 24},
        {"latent_query_num": 2048, "tie_word_embeddings": True},
        processor={"num_image_tokens": 2048},
    ),
    "deepseek_vl": Sizes(
        "deepseek-community/deepseek-vl-1.3b-chat",
        _text(2048, 5632, 24, 16, 16, 128, 102400),
        _encoder(1024, 4096, 24, 16, 384, 16),
        {"tie_word_embeddings": False},
        pictures=_square(384),
        processor={"num_image_tokens": 576},
    ),
    "deepseek_vl_v2": Sizes(
        "deepseek-ai/DeepSeek-OCR",
        {
            **{"vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "moe_intermediate_size": 896},
            **{"num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10},
            **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
            **{"max_position_embeddings": 8192, "mlp_layer_types": None},
        },
        {
            "width": {
                "sam_vit_b": {
                    **{"width": 768, "layers": 12, "heads": 12, "global_attn_indexes": [2, 5, 8, 11]},
                    **{"downsample_channels": [512, 1024], "image_size": 1024, "patch_size": 16},
                },
                "clip-l-14-224": {"width": 1024, "layers": 24, "heads": 16, "image_size": 224, "patch_size": 14},
            }
        },
        pictures={**_square(1024), "tile_size": 640, "stretch_up_to": 640},
        processor={"patch_size": 16},
    ),
    "qwen2_vl": Sizes(
        "Qwen/Qwen2-VL-2B-Instruct",
        _text(1536, 8960, 28, 12, 2, 128, 151936, rope_parameters=_MROPE, tie_word_embeddings=True),
        {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536},
        {"tie_word_embeddings": True},
        _ANY_SIZE,
    ),
    "qwen3_vl": Sizes(
        "Qwen/Qwen3-VL-4B-Instruct",
        _text(
            *(2560, 9728, 36, 32, 8, 128, 151936),
            rope_parameters={**_MROPE, "mrope_section": [24, 20, 20], "mrope_interleaved": True},
            tie_word_embeddings=True,
        ),
        {
            **{"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560},
            **{"patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]},
        },
        {"tie_word_embeddings": True},
        {**_ANY_SIZE, "patch_size": 16},
    ),
    "internvl": Sizes(
        "OpenGVLab/InternVL3-1B-hf",
        _text(*_QWEN2_HALF, 151674),
        _encoder(1024, 4096, 24, 16, [448, 448], [14, 14]),
        {"image_seq_length": 256},
        {**_square(448), "crop_to_patches": True},
        {"image_seq_length": 256},
    ),
    "llava_onevision": Sizes(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        _text(*_QWEN2_HALF, 152000, tie_word_embeddings=True),
        _encoder(*_SO400M, 26, 16, 384),
        {"image_grid_pinpoints": [[384 * x, 384 * y] for x in range(1, 7) for y in range(1, 7)]},
        {**_square(384), "image_grid_pinpoints": [[384 * x, 384 * y] for x in range(1, 7) for y in range(1, 7)]},
        {"num_image_tokens": 729},
    ),
    "glm4v": Sizes(
        "zai-org/GLM-4.1V-9B-Thinking",
        _text(4096, 13696, 40, 32, 2, 128, 151552, rope_parameters=_GLM_HALF_ROPE),
        {
            **{"depth": 24, "hidden_size": 1536, "num_heads": 12, "out_hidden_size": 4096, "image_size": 336},
            "intermediate_size": 13696,
        },
        pictures=_ANY_SIZE,
    ),
    "glm_ocr": Sizes(
        "zai-org/GLM-OCR",
        _text(1536, 4608, 16, 16, 8, 128, 59392, rope_parameters={**_GLM_ROPE, "mrope_section": [16, 24, 24]}),
        {
            **{"depth": 24, "hidden_size": 1024, "num_heads": 16, "out_hidden_size": 1536, "image_size": 336},
            "intermediate_size": 4096,
        },
        pictures=_ANY_SIZE,
    ),
    "idefics3": Sizes(
        "HuggingFaceM4/Idefics3-8B-Llama3",
        _text(4096, 14336, 32, 32, 8, 128, 128259),
        _encoder(*_SO400M, 27, 16, 364),
        pictures={
            **{"size": {"longest_edge": 4 * 364}, "max_image_size": {"longest_edge": 364}, "do_image_splitting": True}
        },
        processor={"image_seq_len": 169},
    ),
    "smolvlm": Sizes(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        _text(2048, 8192, 24, 32, 32, 64, 49280),
        _encoder(*_SO400M, 27, 16, 384),
        {"scale_factor": 3},
        {"size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384}, "do_image_splitting": True},
        {"image_seq_len": 81},
    ),
}
"""By transformers' ``model_type``."""


def save_published(name: str, write_tiny: Callable[[Path], None], folder: Path) -> None:
    """Write config and processor of a family's published checkpoint into ``folder``, without weights."""
    write_tiny(folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    sizes = PUBLISHED[name]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = "text_config" if "text_config" in config else "language_config"
    for part, changes in ((text, sizes.text), ("vision_config", sizes.vision)):
        config[part] = _changed(config[part], changes)
    _write(folder / "config.json", _changed(config, sizes.config))
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    processor["image_processor"] = _changed(processor["image_processor"], sizes.pictures)
    _write(folder / "processor_config.json", _changed(processor, sizes.processor))


def _changed(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``before`` with ``changes``; a change to None removes the value, so that the class's default applies."""
    return {name: value for name, value in {**before, **changes}.items() if value is not None or name not in changes}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
