"""The random models that vllm_families.py has vLLM read with, one a family of ``served_families.py``.

vLLM's CPU kernels take attention heads of 32, 64, 80, 96, ... channels, and its DeepSeek classes build the vision
encoders in full size; what is left is small.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from components.shared.models.deepseek_ocr.configuration import DeepseekOcrConfig
from components.shared.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from components.shared.models.deepseek_ocr.modeling import DeepseekOCRForCausalLM
from components.shared.models.deepseek_ocr.processing import DeepseekVLV2Processor
from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import config_of, load_processor
from tests.fixtures.full_size_deepseek import BEGIN, beginning_tokenizer, save_full_size_deepseek_ocr2

_TEXT: dict[str, Any] = {
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64},
    **{"head_dim": 32, "intermediate_size": 128},
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
}
_VISION = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}


def _qwen(name: str, vision: dict[str, Any], text: dict[str, Any]) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        from tests.fixtures import tiny_torchvision_families as families  # imports torchvision

        config, processor = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Processor")
        families.save(folder, *families._qwen(config, processor, {**_TEXT, **text}, vision))

    return save


def _paddleocr_vl(folder: Path) -> None:
    """Write the bundled base's architecture with heads of 32 channels (it has 48) and random weights."""
    config, processor = config_of("tiny-base"), load_processor("tiny-base")
    for key, value in _TEXT.items():
        setattr(config.text_config, key, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _first_deepseek_ocr(folder: Path) -> None:
    family = FAMILIES["deepseek_vl_v2"]
    tokenizer = beginning_tokenizer(family.prompt)
    tokens = tokenizer.get_vocab()
    language = {
        **{"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
        **{"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "max_position_embeddings": 4096},
        **{"bos_token_id": tokens[BEGIN], "eos_token_id": tokens["<|endoftext|>"], "pad_token_id": tokens["<|pad|>"]},
    }
    config = DeepseekOcrConfig.from_dict({"language_config": language, "image_token_id": tokens["<image>"]})
    torch.manual_seed(0)
    model = DeepseekOCRForCausalLM(config)
    model.generation_config.eos_token_id = tokens["<|endoftext|>"]
    model.generation_config.pad_token_id = tokens["<|pad|>"]
    model.save_pretrained(folder)
    DeepseekVLV2Processor(image_processor=DeepseekOcrImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)


MODELS: dict[str, Callable[[Path], None]] = {
    "qwen2_vl": _qwen("Qwen2VL", {"embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}, {}),
    "qwen2_5_vl": _qwen("Qwen2_5_VL", {**_VISION, "fullatt_block_indexes": [1]}, {}),
    "qwen3_vl": _qwen(
        "Qwen3VL",
        {**_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        {"rope_parameters": {**_TEXT["rope_parameters"], "mrope_interleaved": True}},
    ),
    "paddleocr_vl": _paddleocr_vl,
    "deepseek_ocr2": save_full_size_deepseek_ocr2,
    "deepseek_vl_v2": _first_deepseek_ocr,
}
