"""Makes transformers' Auto classes know the first DeepSeek-OCR."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from .configuration import DeepseekOcrConfig, SavedDeepseekOcrConfig
from .modeling import DeepseekOCRForCausalLM
from .processing import DeepseekVLV2Processor
from .weight_names import weight_names


def register_deepseek_ocr() -> None:
    """Register configuration, model, processor and weight names under both published ``model_type`` names."""
    for config in (DeepseekOcrConfig, SavedDeepseekOcrConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForImageTextToText.register(DeepseekOcrConfig, DeepseekOCRForCausalLM, exist_ok=True)
    AutoProcessor.register(DeepseekOcrConfig, DeepseekVLV2Processor, exist_ok=True)
    register_checkpoint_conversion_mapping(DeepseekOcrConfig.model_type, weight_names(), overwrite=True)
