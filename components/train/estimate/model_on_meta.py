"""Builds the model that a config trains on the meta device: shapes, number formats and adapter, but no weights.

``load_architecture`` reads the model's ``config.json``; ``model_on_meta`` builds the model from it, replaces quantised
weights by packed ones of the same size, and adds the adapter with PEFT. ``_PackedLinear`` imitates bitsandbytes' linear
layers; experts use the product's own ``PackedWeight``. ``scale_bytes`` adds the quantisation scales, which the packed
weights on the meta device do not have.
"""

import math
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.initialization import no_init_weights

from components.shared.errors import UserError, first_line
from components.shared.models.base_models import base_model_location
from components.shared.models.hub import hub_is_reachable
from components.shared.models.model_families import family_of, in_language_model
from components.train.backends.adapter import lora_config
from components.train.backends.experts import expert_weights, fused_experts
from components.train.backends.quantization import PackedWeight, dequantize_once_per_pass, packed_bits
from components.train.config import TrainConfig

_PACKED_BYTES = {4: 0.5, 8: 1.0}


class _ReadPacked(torch.autograd.Function):
    """Imitates bitsandbytes' matrix product, which unpacks the weight in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        ctx.inputs_like = (inputs.shape, inputs.dtype, rows, columns, dtype)
        weight = torch.empty(rows, columns, dtype=dtype, device=inputs.device)
        return torch.nn.functional.linear(inputs.to(dtype), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shape, dtype, rows, columns, unpacked = ctx.inputs_like
        _weight = torch.empty(rows, columns, dtype=unpacked, device=gradients[0].device)
        return torch.empty(shape, dtype=dtype, device=gradients[0].device), None, None, None


class _PackedLinear(torch.nn.Linear):
    """A linear layer with its weight in 4 or 8 bits."""

    def __init__(self, linear: torch.nn.Linear, bits: Literal[4, 8], dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self._dtype = linear.in_features, linear.out_features, dtype
        self.register_parameter("bias", linear.bias)
        packed = torch.empty(int(linear.weight.numel() * _PACKED_BYTES[bits]), dtype=torch.uint8, device="meta")
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the layer's output in the computation's number format."""
        output: torch.Tensor = _ReadPacked.apply(input, self.out_features, self.in_features, self._dtype)
        return output if self.bias is None else output + self.bias


def load_architecture(config: TrainConfig) -> Any:
    """Return the transformers config of ``config.base_model``; reads its ``config.json`` only.

    Raises:
        UserError: there is no such folder, or the hub's file cannot be read.
    """
    location = base_model_location(config.base_model)
    offline = not hub_is_reachable()
    try:
        return AutoConfig.from_pretrained(
            location,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=offline,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"its config cannot be read ({first_line(error)})", where=f"base_model {config.base_model!r}"
        ) from error


def model_on_meta(
    architecture: Any, config: TrainConfig, backend: str, dtype: torch.dtype
) -> PreTrainedModel | PeftModel:
    """Return the model that ``backend`` would train, on the meta device.

    ``dtype`` is the number format of the computation. Weights have the formats that the backend gives them: with
    ``load_in_4bit`` and ``load_in_8bit`` the language model's linear layers are packed, and its experts where
    ``packs_experts`` says so; Unsloth leaves the experts in 16 bits with ``load_in_8bit``.
    """
    full = config.peft == "none"
    loaded = torch.float32 if full else dtype
    default = torch.get_default_dtype()
    torch.set_default_dtype(loaded)
    try:
        with torch.device("meta"), no_init_weights():
            # Without dtype, the format of the saved weights would count, which the config names.
            base = AutoModelForImageTextToText.from_config(
                architecture, dtype=loaded, trust_remote_code=config.trust_remote_code
            )
    finally:
        torch.set_default_dtype(default)
    base.tie_weights()
    base.config.use_cache = False
    if full:
        return base
    base.requires_grad_(False)
    bits = packed_bits(config)
    family = family_of(base.config.model_type)
    adapter = lora_config(config, base, family)
    if bits:
        _pack(base, bits, config, backend, dtype)
    model = get_peft_model(base, adapter)
    for module in model.modules():
        if bits and isinstance(getattr(module, "base_layer", None), _PackedLinear):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]
    return model


def packs_experts(config: TrainConfig, backend: str) -> bool:
    """Return whether ``backend`` packs the fused weights of a mixture of experts too."""
    if config.adapt_experts:
        return False
    return config.load_in_4bit if backend == "unsloth" else config.quantize_experts


def scale_bytes(config: TrainConfig, model: torch.nn.Module) -> int:
    """Return the bytes of the packed weights' scales.

    nf4 with double quantisation: 1 byte per block of 64 values and 4 bytes per 256 blocks (Dettmers et al., 2023,
    "QLoRA"). 8 bits: 4 bytes per row of a linear layer, and 4 bytes per 256 values of an expert.
    """
    linear = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, _PackedLinear))
    rows = sum(m.out_features for m in model.modules() if isinstance(m, _PackedLinear))
    experts = sum(m.shape.numel() for m in model.modules() if isinstance(m, PackedWeight))
    if config.load_in_4bit:
        blocks = (linear + experts) / 64
        return math.ceil(blocks + blocks / 256 * 4)
    return rows * 4 + math.ceil(experts / 256 * 4)


def _pack(base: PreTrainedModel, bits: Literal[4, 8], config: TrainConfig, backend: str, dtype: torch.dtype) -> None:
    output_layer = base.get_output_embeddings()
    for name, module in list(base.named_modules()):
        if not in_language_model(f"{name}."):
            continue
        for child_name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear and child is not output_layer:
                setattr(module, child_name, _PackedLinear(child, bits, dtype))
    if packs_experts(config, backend):
        for _, module in fused_experts(base):
            names = expert_weights(module)
            for name in names:
                _pack_expert(module, name, bits, dtype)
            dequantize_once_per_pass(module, names, again_in_backward=not config.gradient_checkpointing)
    if config.upcast_unquantized:
        for weight in base.parameters():
            if weight.is_floating_point():
                weight.data = weight.data.float()


def _pack_expert(module: torch.nn.Module, name: str, bits: Literal[4, 8], dtype: torch.dtype) -> None:
    shape = getattr(module, name).shape
    packed = torch.empty(int(shape.numel() * _PACKED_BYTES[bits]), dtype=torch.uint8, device="meta")

    def unpack(stored: torch.Tensor, _: Any) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=stored.device)

    setattr(module, name, torch.nn.Parameter(packed, requires_grad=False))
    label = "nf4" if bits == 4 else "8-bit blockwise"
    parametrize.register_parametrization(module, name, PackedWeight(None, unpack, label, shape), unsafe=True)
