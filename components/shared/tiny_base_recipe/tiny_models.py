"""Small models with random weights: the start of the bundled tiny base, and small DeepSeek-OCR models for tests.

    python -m components.shared.tiny_base_recipe.tiny_models paddleocr_vl FOLDER
    python -m components.shared.tiny_base_recipe.tiny_models deepseek_ocr2 FOLDER
    python -m components.shared.tiny_base_recipe.tiny_models deepseek_ocr FOLDER

The folders load with ``AutoProcessor`` and ``AutoModelForImageTextToText`` like any other checkpoint.
"""

import argparse
import sys
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    DeepseekOcr2Processor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil

from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.models.deepseek_ocr.configuration import DeepseekOcrConfig
from components.shared.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from components.shared.models.deepseek_ocr.modeling import DeepseekOCRForCausalLM
from components.shared.models.deepseek_ocr.processing import DeepseekVLV2Processor
from components.shared.models.deepseek_ocr.registration import register_deepseek_ocr
from components.shared.models.model_families import FAMILIES

_DEEPSEEK_PATCH = 4  # pixels

_CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def byte_tokenizer(
    special_tokens: list[str], whole_texts: list[str], image_token: str = "<|image_pad|>"
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per UTF-8 byte, plus ``special_tokens`` and ``whole_texts``.

    ``whole_texts`` are ordinary strings that become one token each, such as a prompt that is in every sample.
    ``image_token`` is the one of ``special_tokens`` that represents a picture.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole_texts])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        extra_special_tokens={"image_token": image_token},
        clean_up_tokenization_spaces=False,
    )


def save_blank_paddleocr_vl(folder: Path, seed: int = 0) -> None:
    """Write a PaddleOCR-VL of about 3 M parameters that reads 28x28-pixel cells at the picture's resolution.

    It is not a Qwen2-VL because that processor cannot be loaded without torchvision, and PyPI has no torchvision
    build for CPU-only torch.
    """
    special = ["<|endoftext|>", "<|pad|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(special, [FAMILIES["paddleocr_vl"].prompt])
    tokens = tokenizer.get_vocab()
    config = PaddleOCRVLConfig(
        text_config={
            "vocab_size": 320,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 48,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 8, 8]},
            "bos_token_id": None,
            "eos_token_id": tokens["<|endoftext|>"],
            "pad_token_id": tokens["<|pad|>"],
        },
        vision_config={
            "num_hidden_layers": 3,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "image_size": 392,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    processor = PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessorPil(min_pixels=28 * 28, max_pixels=1024 * 28 * 28),
        tokenizer=tokenizer,
        chat_template=_CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    model = PaddleOCRVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokens["<|endoftext|>"]
    model.generation_config.pad_token_id = tokens["<|pad|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_tiny_deepseek_ocr2(folder: Path, seed: int = 0) -> None:
    """Write a DeepSeek-OCR-2 of about 0.3 M parameters with every part of the real model.

    It has a SAM encoder (windowed and global attention), a vision encoder with queries, a projector, a text model with
    a dense and a mixture-of-experts layer, the global view and tiles. A view has 144 or 256 queries, for 12x12 or
    16x16 cells of 4x4 patches: with patches of 4 pixels a tile is 192 pixels wide (768 in the real model) and the
    global view 256 (1024).
    """
    special = ["<|endoftext|>", "<|pad|>", "<image>"]
    tokenizer = byte_tokenizer(special, [FAMILIES["deepseek_ocr2"].prompt], image_token="<image>")
    tokens = tokenizer.get_vocab()
    attention = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = DeepseekOcr2Config(
        text_config={
            **attention,
            "vocab_size": 320,
            "max_position_embeddings": 4096,
            "mlp_layer_types": ["dense", "sparse"],
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "bos_token_id": None,
            "eos_token_id": tokens["<|endoftext|>"],
            "pad_token_id": tokens["<|pad|>"],
        },
        vision_config={
            "sam_config": {
                "hidden_size": 16,
                "output_channels": 16,
                "downsample_channels": [32, 64],
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "global_attn_indexes": [1],
                "image_size": 256,
                "patch_size": _DEEPSEEK_PATCH,
                "initializer_range": 0.02,
            },
            "encoder_config": {**attention, "num_key_value_heads": 2, "vocab_size": 1},
        },
        image_token_id=tokens["<image>"],
    )
    processor = DeepseekOcr2Processor(
        image_processor=DeepseekOcr2ImageProcessorPil(size={"height": 256, "width": 256}, tile_size=192),
        tokenizer=tokenizer,
        patch_size=_DEEPSEEK_PATCH,
    )
    torch.manual_seed(seed)
    model = DeepseekOcr2ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokens["<|endoftext|>"]
    model.generation_config.pad_token_id = tokens["<|pad|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_tiny_deepseek_ocr(folder: Path, seed: int = 0) -> None:
    """Write a first DeepSeek-OCR of about 0.3 M parameters with every part of the real model, in the published form.

    With patches of 4 pixels instead of 16, a tile is 160 pixels wide (640 in the real model) and the global view 256
    (1024).
    """
    register_deepseek_ocr()
    special = ["<|endoftext|>", "<|pad|>", "<image>"]
    tokenizer = byte_tokenizer(special, [FAMILIES["deepseek_vl_v2"].prompt], image_token="<image>")
    tokens = tokenizer.get_vocab()
    config = DeepseekOcrConfig.from_dict(
        {
            "language_config": {
                **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32},
                **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
                **{"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
                **{"max_position_embeddings": 4096, "bos_token_id": None},
                **{"eos_token_id": tokens["<|endoftext|>"], "pad_token_id": tokens["<|pad|>"]},
            },
            "vision_config": {
                "width": {
                    "sam_vit_b": {
                        **{"width": 16, "layers": 2, "heads": 1, "global_attn_indexes": [1], "output_channels": 16},
                        **{"downsample_channels": [32, 64], "image_size": 256, "patch_size": _DEEPSEEK_PATCH},
                    },
                    "clip-l-14-224": {"width": 64, "layers": 2, "heads": 4, "image_size": 64, "patch_size": 4},
                }
            },
            "image_token_id": tokens["<image>"],
        }
    )
    processor = DeepseekVLV2Processor(
        image_processor=DeepseekOcrImageProcessor(size={"height": 256, "width": 256}, tile_size=160, stretch_up_to=160),
        tokenizer=tokenizer,
        patch_size=_DEEPSEEK_PATCH,
    )
    torch.manual_seed(seed)
    model = DeepseekOCRForCausalLM(config)
    model.generation_config.eos_token_id = tokens["<|endoftext|>"]
    model.generation_config.pad_token_id = tokens["<|pad|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


MODELS = {
    "paddleocr_vl": save_blank_paddleocr_vl,
    "deepseek_ocr2": save_tiny_deepseek_ocr2,
    "deepseek_ocr": save_tiny_deepseek_ocr,
}


def main(arguments: list[str]) -> int:
    """Write the model requested in ``arguments`` and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path, help="new or empty")
    options = parser.parse_args(arguments)
    try:
        with finished_folder(options.folder) as folder:
            MODELS[options.model](folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
