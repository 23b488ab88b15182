"""The standard backend: transformers and PEFT, with bitsandbytes for 4 and 8 bits. Also runs on a CPU."""

import importlib.util
import logging
from typing import Any, Literal

import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, PreTrainedModel

from components.shared.artifacts.training_record import BackendName
from components.shared.errors import UserError
from components.shared.models.model_families import LANGUAGE_MODEL, family_of
from components.shared.models.model_loading import default_device, default_dtype, load_model, load_processor
from components.train.backends.adapter import lora_config, start_adapter
from components.train.backends.experts import fused_experts
from components.train.backends.protocol import AdapterStart, TrainableModel
from components.train.backends.quantization import packed_bits, quantize_experts, weight_formats
from components.train.config import TrainConfig

log = logging.getLogger(__name__)

# Modules outside the language model stay in 16 bits, as with Unsloth: the vision encoder's errors would affect every
# token, and bitsandbytes' 8-bit product rejects the four-dimensional inputs of DeepSeek's encoder.
_OUTSIDE_THE_LANGUAGE_MODEL = rf"(?!.*({LANGUAGE_MODEL}))"
# The output layer too, which is within Kosmos-2.5's language model: its weight is that of the embeddings, in 16 bits.
_NOT_PACKED = [_OUTSIDE_THE_LANGUAGE_MODEL, "lm_head"]


class StandardBackend:
    """Trains transformers' own model classes with PEFT's LoRA."""

    name: BackendName = "standard"

    def load(self, config: TrainConfig) -> TrainableModel:
        """Load the base in the configured precision and add the adapter; see ``Backend.load``."""
        device = default_device()
        hub: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        processor = load_processor(config.base_model, **hub)
        # Full fine-tuning keeps float32 weights: bfloat16 drops updates smaller than 1/256 of a weight.
        dtype = torch.float32 if config.peft == "none" else compute_dtype(config, device)
        options: dict[str, Any] = {}
        if bits := packed_bits(config):
            options["quantization_config"] = _bitsandbytes(bits, device, dtype)
        base = load_model(config.base_model, dtype=dtype, device=device, **hub, **options)
        base.config.use_cache = False
        family = family_of(base.config.model_type)
        if config.peft == "none":
            return TrainableModel(base, processor, family)
        if bits == 4 and device.type == "cpu":
            _prepare_4_bits_on_cpu(base)
        if bits:
            base = _with_quantized_experts(base, bits, config)
        model = get_peft_model(base, lora_config(config, base, family))
        start = start_adapter(model, config, dtype)
        return TrainableModel(model, processor, family, model_details(model, start), start=start)


def compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the number format of the computation."""
    return default_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)


def model_details(model: Any, start: AdapterStart | None) -> dict[str, Any]:
    """Return the facts of a model that a fair comparison of two backends needs."""
    return {
        **({"loftq": start.facts} if start else {}),
        "frozen_weights": weight_formats(model),
        "attention": model.config._attn_implementation,
        "experts": getattr(model.config, "_experts_implementation", None),
    }


def _with_quantized_experts(base: PreTrainedModel, bits: Literal[4, 8], config: TrainConfig) -> PreTrainedModel:
    experts = sum(weight.numel() for _, module in fused_experts(base) for weight in module.parameters(recurse=False))
    if experts and config.quantize_experts and not config.adapt_experts:
        quantize_experts(base, bits, config.gradient_checkpointing)
        torch.cuda.empty_cache()
        log.info("%.2f billion expert weights are in %d bits", experts / 1e9, bits)
    elif experts:
        why = "they are adapted" if config.adapt_experts else "quantize_experts is off"
        log.warning("%.2f billion expert weights are not in %d bits: %s", experts / 1e9, bits, why)
    if config.upcast_unquantized:
        log.warning("weights that are not in %d bits are turned into float32: upcast_unquantized is on", bits)
        return prepare_model_for_kbit_training(base, use_gradient_checkpointing=config.gradient_checkpointing)
    return base


def _bitsandbytes(bits: Literal[4, 8], device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    where = f"load_in_{bits}bit"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{bits}-bit weights need the bitsandbytes package", where=where, mend="install the gpu extra")
    if bits == 8 and device.type != "cuda":
        raise UserError(
            "8-bit weights: no CUDA device on this machine", where=where, mend="leave it at its default, or use 4 bits"
        )
    if bits == 8:
        # Logs at every product that it casts its inputs to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_NOT_PACKED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=_NOT_PACKED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _prepare_4_bits_on_cpu(base: PreTrainedModel) -> None:
    """Restrict bitsandbytes 0.50 to what it computes correctly on a CPU.

    Raises:
        UserError: a module's rows are not whole blocks: they are dequantised wrongly (seen: 20 % off instead of 9 %).
    """
    for name, module in base.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        if module.in_features % state.blocksize:
            raise UserError(
                f"{name} has {module.in_features} inputs, on a CPU bitsandbytes needs a multiple of {state.blocksize}",
                where="load_in_4bit",
                mend="leave it off on this machine",
            )
        # Otherwise the first evaluation repacks the weight for AVX-512: it is rounded again and passes no gradients.
        module.support_avx512bf16_for_cpu = False
