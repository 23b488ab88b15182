"""Full-size models of two families with random weights: their speed and memory do not depend on the weights.

Qwen2.5-VL has the sizes of the published 3B checkpoint (3.75 billion parameters with its vision encoder), PaddleOCR-VL
those of transformers' default config, which are the published 0.9B checkpoint's. The tokenizer makes one token per
UTF-8 byte.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import default_device
from components.shared.tiny_base_recipe.tiny_models import byte_tokenizer

_SPECIAL = ["<|endoftext|>", "<|pad|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
_QWEN_TEXT = {
    **{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36},
    **{"num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
_QWEN_VISION = {"hidden_size": 1280, "out_hidden_size": 2048}  # the others are the config's defaults
_PADDLE_TEXT = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [16, 24, 24]}}


def _ids(tokens: dict[str, int]) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return {name: tokens[mark] for name, mark in zip(names, marks, strict=True)}


def _qwen2_5_vl(tokenizer: Any, ends: dict[str, Any]) -> tuple[Any, Any]:
    ids = _ids(tokenizer.get_vocab())
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_QWEN_TEXT, **ends}, vision_config=_QWEN_VISION, tie_word_embeddings=True, **ids
    )
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )
    return config, processor


def _paddleocr_vl(tokenizer: Any, ends: dict[str, Any]) -> tuple[Any, Any]:
    from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil

    config = transformers.PaddleOCRVLConfig(text_config={**_PADDLE_TEXT, **ends}, **_ids(tokenizer.get_vocab()))
    processor = transformers.PaddleOCRVLProcessor(PaddleOCRVLImageProcessorPil(), tokenizer, chat_template=_TEMPLATE)
    return config, processor


_MAKERS = {"qwen2_5_vl": _qwen2_5_vl, "paddleocr_vl": _paddleocr_vl}


def save_without_weights(name: str, folder: Path) -> None:
    """Write only config and processor, which is what a memory estimate reads."""
    config, processor, _ = _parts(name)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _parts(name: str) -> tuple[Any, Any, dict[str, Any]]:
    tokenizer = byte_tokenizer(_SPECIAL, [FAMILIES["paddleocr_vl"].prompt])
    tokens = tokenizer.get_vocab()
    ends = {"bos_token_id": None, "eos_token_id": tokens["<|endoftext|>"], "pad_token_id": tokens["<|pad|>"]}
    return *_MAKERS[name](tokenizer, ends), ends


def save_full_size(name: str, folder: Path, layers: int | None = None) -> None:
    """Write model and processor; ``layers`` limits the layers of both parts, to try the command on a small machine."""
    config, processor, ends = _parts(name)
    if layers:
        config.text_config.num_hidden_layers = layers
        if kinds := getattr(config.text_config, "layer_types", None):
            config.text_config.layer_types = kinds[:layers]
        depth = "depth" if hasattr(config.vision_config, "depth") else "num_hidden_layers"
        setattr(config.vision_config, depth, layers)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(default_device()):
            model = transformers.AutoModelForImageTextToText.from_config(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = ends["eos_token_id"]
    model.generation_config.pad_token_id = ends["pad_token_id"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
