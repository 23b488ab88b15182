"""A full-size DeepSeek-OCR-2 with random weights, to measure speed and memory, which do not depend on the weights.

    python -m components.benchmark.contenders.full_size_model FOLDER

3.39 billion parameters in bfloat16, 6.8 GB on disk. The shapes are those of the published checkpoint's config.json
(huggingface.co/deepseek-ai/DeepSeek-OCR-2). The tokenizer makes one token per UTF-8 byte instead of one per 3 to 4
letters, so use pages with as many bytes as the real tokenizer would make tokens.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration, DeepseekOcr2Processor
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import default_device
from components.shared.tiny_base_recipe.tiny_models import byte_tokenizer

_TEXT = {
    "vocab_size": 129280,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "max_position_embeddings": 8192,
    "mlp_layer_types": ["dense"] + 11 * ["sparse"],
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 896,
    "n_group": 1,
    "topk_group": 1,
}
_VISION_ENCODER = {
    "vocab_size": 1,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}


def full_size_config(end_token: int, pad_token: int, image_token: int) -> DeepseekOcr2Config:
    """Return the config of the published architecture with the byte tokenizer's token ids."""
    return DeepseekOcr2Config(
        text_config={**_TEXT, "bos_token_id": None, "eos_token_id": end_token, "pad_token_id": pad_token},
        # SAM's default initializer_range is 1e-10: random weights that small would ignore the picture.
        vision_config={"sam_config": {"initializer_range": 0.02}, "encoder_config": _VISION_ENCODER},
        image_token_id=image_token,
    )


def save_full_size_deepseek_ocr2(folder: Path, seed: int = 0) -> None:
    """Write the model and its processor into ``folder``; takes seconds on a GPU, minutes on a CPU."""
    processor, config = _processor_and_config()
    torch.manual_seed(seed)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(default_device()):
            model = DeepseekOcr2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(dtype)
    text_config = config.get_text_config()
    model.generation_config.eos_token_id = text_config.eos_token_id
    model.generation_config.pad_token_id = text_config.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_without_weights(folder: Path) -> None:
    """Write only the model's config and processor, which is what a memory estimate reads."""
    processor, config = _processor_and_config()
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _processor_and_config() -> tuple[DeepseekOcr2Processor, DeepseekOcr2Config]:
    special = ["<|endoftext|>", "<|pad|>", "<image>"]
    tokenizer = byte_tokenizer(special, [FAMILIES["deepseek_ocr2"].prompt], image_token="<image>")
    config = full_size_config(*(tokenizer.get_vocab()[token] for token in special))
    return DeepseekOcr2Processor(image_processor=DeepseekOcr2ImageProcessorPil(), tokenizer=tokenizer), config


def main(arguments: list[str]) -> int:
    """Write the model into the folder given in ``arguments`` and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new or empty")
    try:
        with finished_folder(parser.parse_args(arguments).folder) as folder:
            save_full_size_deepseek_ocr2(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
