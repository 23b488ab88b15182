"""Quantises the fused weights of a mixture of experts to 4 or 8 bits, which bitsandbytes' loading leaves out.

transformers 5 keeps all experts of a layer in one parameter per projection. bitsandbytes 0.50 replaces ``nn.Linear``
modules only, so these parameters (2.4 of DeepSeek-OCR-2's 3.4 billion) would stay in 16 bits.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.utils import parametrize

from components.train.backends.experts import expert_weights, fused_experts
from components.train.config import TrainConfig

# The 4-bit block size is that of bitsandbytes' linear layers, the 8-bit one that of its optimizers.
_BLOCK_SIZE_4_BIT = 64
_BLOCK_SIZE_8_BIT = 256


def packed_bits(config: TrainConfig) -> Literal[4, 8] | None:
    """Return the bits per packed weight; None if the config packs none."""
    if config.load_in_4bit:
        return 4
    return 8 if config.load_in_8bit else None


class PackedWeight(torch.nn.Module):
    """A parametrization that stores the packed parameter and dequantises it whenever it is read."""

    def __init__(self, state: Any, unpack: Callable[..., torch.Tensor], label: str, shape: torch.Size) -> None:
        super().__init__()
        self.label = label
        self.shape = shape
        self._state = state
        self._unpack = unpack

    @torch.no_grad()
    def forward(self, packed: torch.Tensor) -> torch.Tensor:
        return self._unpack(packed, self._state).view(self.shape)


def quantize_experts(model: torch.nn.Module, bits: Literal[4, 8], checkpointing: bool) -> int:
    """Quantise every fused expert weight of ``model`` in place and return their number of values.

    4 bits: nf4 with double quantisation; 8 bits: blockwise dynamic quantisation (Dettmers et al., 2021, "8-bit
    Optimizers via Block-wise Quantization"). The weights are dequantised one layer at a time, in the forward pass and
    again in the backward pass, so that no 16-bit copy of them outlives its layer. Gradient checkpointing ensures that
    already, and our hooks would then keep what it frees.
    """
    values = 0
    for _, module in fused_experts(model):
        names = expert_weights(module)
        for name in names:
            values += getattr(module, name).numel()
            _pack(module, name, bits)
        dequantize_once_per_pass(module, names, again_in_backward=not checkpointing)
    return values


def _pack(module: torch.nn.Module, name: str, bits: Literal[4, 8]) -> None:
    from bitsandbytes import functional

    shape = getattr(module, name).shape
    # Flatten: bitsandbytes 0.50 on a CPU wrongly dequantises rows shorter than a block.
    weight = getattr(module, name).data.reshape(-1)
    if bits == 4:
        unpack: Callable[..., torch.Tensor] = functional.dequantize_4bit
        packed, state = functional.quantize_4bit(
            weight, blocksize=_BLOCK_SIZE_4_BIT, compress_statistics=True, quant_type="nf4"
        )
    else:
        packed, state = functional.quantize_blockwise(weight, blocksize=_BLOCK_SIZE_8_BIT)
        unpack = functional.dequantize_blockwise
    label = "nf4" if bits == 4 else "8-bit blockwise"
    setattr(module, name, torch.nn.Parameter(packed, requires_grad=False))
    parametrize.register_parametrization(module, name, PackedWeight(state, unpack, label, shape), unsafe=True)


def dequantize_once_per_pass(module: torch.nn.Module, names: list[str], again_in_backward: bool) -> None:
    """Dequantise a weight once per forward pass, however often it is read there.

    With ``again_in_backward`` autograd keeps the weight's name instead of its 16-bit copy, and the backward pass
    dequantises it again.
    """
    forward = module.forward

    def lean_forward(*inputs: Any, **options: Any) -> Any:
        with parametrize.cached():
            if not (again_in_backward and torch.is_grad_enabled()):
                return forward(*inputs, **options)
            with _names_instead_of_copies(module, names):
                return forward(*inputs, **options)

    module.forward = lean_forward


def _names_instead_of_copies(module: torch.nn.Module, names: list[str]) -> Any:
    storages = {getattr(module, name).untyped_storage()._cdata: name for name in names}

    def remember(tensor: torch.Tensor) -> Any:
        name = storages.get(tensor.untyped_storage()._cdata)
        if name is None:
            return tensor
        return name, tensor.shape, tensor.stride(), tensor.storage_offset()

    def recall(kept: Any) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        name, shape, stride, offset = kept
        weight: torch.Tensor = getattr(module, name)
        return weight.as_strided(shape, stride, offset)

    return torch.autograd.graph.saved_tensors_hooks(remember, recall)


def weight_formats(model: torch.nn.Module) -> dict[str, dict[str, int]]:
    """Return, by number format, how many frozen values the model holds and how many bytes they take.

    Quantised weights are counted by their values, not by their packed bytes; their scales are left out.
    """
    formats: dict[str, dict[str, int]] = defaultdict(lambda: {"values": 0, "bytes": 0})
    packed = {
        id(stored.original): stored[0]
        for stored in model.modules()
        if isinstance(stored, parametrize.ParametrizationList) and isinstance(stored[0], PackedWeight)
    }
    for weight in model.parameters():
        if weight.requires_grad:
            continue
        label, values = str(weight.dtype).removeprefix("torch."), weight.numel()
        if id(weight) in packed:
            label, values = packed[id(weight)].label, packed[id(weight)].shape.numel()
        elif (state := getattr(weight, "quant_state", None)) is not None:
            label, values = str(state.quant_type), torch.Size(state.shape).numel()
        formats[label]["values"] += values
        formats[label]["bytes"] += weight.numel() * weight.element_size()
    return dict(formats)
