"""The published form of the configuration: ``language_config``, ``vision_config.width`` and ``projector_config``.

The published ``config.json`` repeats the language model's settings at its top level, where the published code reads
them. What a config leaves out has the value of ``deepseek-ai/DeepSeek-OCR``.
"""

from typing import Any

_SAM, _CLIP = "sam_vit_b", "clip-l-14-224"
_LANGUAGE: dict[str, Any] = {
    **{"vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "moe_intermediate_size": 896},
    **{"num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10, "max_position_embeddings": 8192},
    **{"n_group": 1, "topk_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6},
    **{"routed_scaling_factor": 1.0, "hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02},
    **{"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None},
}
"""The settings with the same names in ``DeepseekOcr2TextConfig``."""
_FIXED: dict[str, Any] = {
    **{"use_mla": False, "scoring_func": "softmax", "norm_topk_prob": False, "topk_method": "greedy", "ep_size": 1},
    **{"moe_layer_freq": 1, "rope_scaling": None},
}
"""What has one possible value here: multi-head attention, a softmax gate whose weights are not normalised."""
_MORE = {"first_k_dense_replace": 1, "rope_theta": 10000.0}
_NO_LATENT_ATTENTION: dict[str, Any] = {
    **{"q_lora_rank": None, "kv_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0}
}
_NOT_READ = (
    *("language_config", "projector_config", "auto_map", "candidate_resolutions", "tile_tag", "global_view_pos"),
    *("lm_head", "rm_head", "pretraining_tp", "aux_loss_alpha", "seq_aux", "use_cache"),
)
_NAMES = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
_SAM_MORE = ("global_attn_indexes", "downsample_channels", "output_channels", "window_size", "image_size", "patch_size")
_CLIP_MORE = ("image_size", "patch_size", "intermediate_size")


def language_settings(published: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the language model's settings in transformers' form, and the entries of ``published`` about other things.

    Raises:
        ValueError: a setting that this architecture does not have, such as latent attention.
    """
    said = {**_LANGUAGE, **_MORE, **published, **(published.get("language_config") or {})}
    for name, only in _FIXED.items():
        if said.get(name, only) != only:
            raise ValueError(f"DeepSeek-OCR has {name}={only!r}, not {said[name]!r}")
    layers, dense = said["num_hidden_layers"], said["first_k_dense_replace"]
    settings = {
        **{name: said[name] for name in _LANGUAGE},
        "topk_method": "greedy",
        "mlp_layer_types": ["dense" if layer < dense else "sparse" for layer in range(layers)],
        "rope_parameters": {"rope_type": "default", "rope_theta": said["rope_theta"]},
    }
    read = {*_LANGUAGE, *_FIXED, *_MORE, *_NO_LATENT_ATTENTION, *_NOT_READ}
    return settings, {name: value for name, value in published.items() if name not in read}


def vision_settings(published: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the vision part in transformers' form."""
    width = published.get("width", {})
    sam, clip = dict(width.get(_SAM, {})), dict(width.get(_CLIP, {}))
    if "width" in clip:
        clip.setdefault("intermediate_size", 4 * clip["width"])
    return {
        "sam_config": {_NAMES.get(name, name): value for name, value in sam.items()},
        "clip_config": {_NAMES.get(name, name): value for name, value in clip.items()},
    }


def as_published(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config``, the ``to_dict`` of transformers' form, in the published form."""
    text, vision = config["text_config"], config["vision_config"]
    sam, clip = vision["sam_config"], vision["clip_config"]
    language = published_language(text)
    return {
        **{name: value for name, value in config.items() if name != "text_config"},
        **published_parts(
            language,
            features=sam["downsample_channels"][-1] + clip["hidden_size"],
            image_size=sam["image_size"],
            widths={_CLIP: _part(clip, _CLIP_MORE), _SAM: _part(sam, _SAM_MORE)},
        ),
    }


def published_parts(
    language: dict[str, Any], features: int, image_size: int, widths: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the settings of language model, projector and vision encoders as DeepSeek's published files nest them.

    Args:
        language: in the published form; it also stands at the top.
        features: channels that the encoders give for a position.
        image_size: pixels of SAM's square.
        widths: the encoders' settings by their published names.
    """
    return {
        **language,
        "language_config": {"architectures": ["DeepseekV2ForCausalLM"], **language},
        "projector_config": {
            "input_dim": features,
            "model_type": "mlp_projector",
            "n_embed": language["hidden_size"],
            "projector_type": "linear",
        },
        "vision_config": {
            "image_size": image_size,
            "mlp_ratio": 3.7362,  # nothing reads it; the published file has it
            "model_name": "deeplip_b_l",
            "model_type": "vision",
            "width": widths,
        },
    }


def published_language(text: dict[str, Any]) -> dict[str, Any]:
    """Return ``text``, the language model's settings in transformers' form, in the published form."""
    return {
        **{name: text[name] for name in _LANGUAGE},
        **_FIXED,
        **_NO_LATENT_ATTENTION,
        "first_k_dense_replace": text["mlp_layer_types"].count("dense"),
        "rope_theta": text["rope_parameters"]["rope_theta"],
    }


def _part(config: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    return {**{theirs: config[ours] for theirs, ours in _NAMES.items()}, **{name: config[name] for name in more}}
