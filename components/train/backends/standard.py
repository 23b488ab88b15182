"""The standard backend: transformers and PEFT, with bitsandbytes for 4 bits. Runs on a CPU too."""

import re
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from components.shared.errors import UserError
from components.shared.model_families import ModelFamily, family_of
from components.shared.model_loading import default_device, default_dtype, load_model, load_processor
from components.train.backends.protocol import TrainableModel
from components.train.config import TrainConfig


class StandardBackend:
    """transformers' own classes, PEFT's LoRA."""

    name = "standard"

    def load(self, config: TrainConfig) -> TrainableModel:
        """Load the base in the configured precision and add the adapter; see ``Backend.load``."""
        device = default_device()
        hub: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        processor = load_processor(config.base_model, **hub)
        options: dict[str, Any] = {}
        if config.load_in_4bit:
            options["quantization_config"] = _four_bits(device)
        # Full fine-tuning keeps float32 weights: bfloat16 drops updates smaller than 1/256 of a weight.
        dtype = torch.float32 if config.peft == "none" else compute_dtype(config, device)
        base = load_model(config.base_model, dtype=dtype, device=device, **hub, **options)
        base.config.use_cache = False
        family = family_of(base.config.model_type)
        if config.peft == "none":
            return TrainableModel(base, processor, family)
        if config.load_in_4bit:
            base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=config.gradient_checkpointing)
        return TrainableModel(get_peft_model(base, lora_config(config, base, family)), processor, family)


def compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the number format of the computation."""
    return default_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)


def lora_config(config: TrainConfig, model: PreTrainedModel, family: ModelFamily) -> LoraConfig:
    """Return PEFT's settings, with the family's modules where the config names none.

    Raises:
        UserError: no module of the model has one of the target names.
    """
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=target_module_names(config, model, family),
        bias="none",
    )


def target_module_names(config: TrainConfig, model: PreTrainedModel, family: ModelFamily) -> list[str]:
    """Return the full names of the linear modules that LoRA adapts, in the model's order."""
    if config.target_modules:
        pattern = rf"(.*\.)?({'|'.join(re.escape(name) for name in config.target_modules)})"
    else:
        pattern = family.language_modules
        if config.finetune_vision_layers:
            pattern = f"{pattern}|{family.vision_modules}"
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(pattern, name)
    ]
    if not names:
        raise UserError(
            "no linear module of the model has one of these names",
            where=f"target_modules {config.target_modules or pattern}",
            mend="name modules as the model's named_modules() shows them",
        )
    return names


def _four_bits(device: torch.device) -> BitsAndBytesConfig:
    _need_cuda(device, "load_in_4bit", "4-bit weights")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _need_cuda(device: torch.device, field: str, feature: str) -> None:
    if device.type != "cuda":
        raise UserError(f"{feature}: no CUDA device on this machine", where=field, mend="leave it at its default")
