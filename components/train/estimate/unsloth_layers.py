"""Imitates on the meta device what Unsloth's compiled layers keep for the backward pass and allocate in it.

``compile_layers`` replaces the forward functions of three kinds of layers in the language model: norms, gated MLPs and
mixtures of experts. The stand-ins follow unsloth_zoo 2026.10.9 (temporary_patches/moe_utils.py,
moe_experts_interface.py) and the tensors alive at the peaks of training steps on a GPU
(docs/benchmarks/training/run-24-peaks.json).
"""

from typing import Any

import torch
from torch.nn.utils import parametrize

from components.shared.models.model_families import in_language_model
from components.train.backends.quantization import PackedWeight

_PROJECTIONS = ("gate_up_proj", "down_proj")
_GATED_LAYER = ("gate_proj", "up_proj", "down_proj", "act_fn")


def compile_layers(model: torch.nn.Module) -> None:
    """Make the language model's norms, gated MLPs and mixtures of experts keep what Unsloth's compiled ones keep."""
    for name, module in model.named_modules():
        if not in_language_model(f"{name}."):
            continue
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _CompiledNorm.apply
        elif all(hasattr(module, part) for part in _GATED_LAYER):
            module.forward = _gated_layer(module)
        elif hasattr(module, "num_experts") and all(hasattr(module, part) for part in _PROJECTIONS):
            module.forward = _experts_of(module)


class _CompiledNorm(torch.autograd.Function):
    """A norm that saves its input unchanged; the eager norm saves a float32 copy."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden)
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


def _gated_layer(module: Any) -> Any:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        inner = _GatedActivation.apply(module.gate_proj(hidden), module.up_proj(hidden))
        output: torch.Tensor = module.down_proj(inner)
        return output

    return forward


class _GatedActivation(torch.autograd.Function):
    """activation(gate) · up: saves both inputs; the backward pass writes their gradients into the same memory."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return gate.detach(), up.detach()


def _experts_of(module: Any) -> Any:
    gate_up, down = (_shape(module, name) for name in _PROJECTIONS)
    packed = parametrize.is_parametrized(module)

    def forward(hidden: torch.Tensor, experts: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _Experts.apply(hidden, routing, gate_up, down, packed)
        return output

    return forward


def _shape(module: Any, name: str) -> torch.Size:
    if not parametrize.is_parametrized(module, name):
        return torch.Size(getattr(module, name).shape)
    stored = module.parametrizations[name][0]
    assert isinstance(stored, PackedWeight)
    return stored.shape


class _Experts(torch.autograd.Function):
    """A mixture of frozen experts; ``routed`` rows are the tokens times the experts that each token visits.

    Packed weights are unpacked for each product, and again in the backward pass; the gradient of the routing does not
    need the experts' outputs. Experts in 16 bits keep their outputs for that gradient, and weight them in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, routing: torch.Tensor, gate_up: torch.Size, down: torch.Size, packed: bool
    ) -> torch.Tensor:
        size, routed = hidden.shape[-1], routing.numel()
        sizes = size, gate_up.numel() // gate_up[0] // size, down.numel() // down[0] // size
        _inputs = hidden.new_empty(routed, size)
        _weight = hidden.new_empty(gate_up) if packed else None
        products = hidden.new_empty(routed, sizes[1])
        del _inputs, _weight
        _inner = hidden.new_empty(routed, sizes[2])
        _weight = hidden.new_empty(down) if packed else None
        outputs = hidden.new_empty(routed, size)
        del _weight
        ctx.kept = [products] if packed else [products, outputs]
        ctx.like = hidden, routing
        ctx.weights = (gate_up, down) if packed else None
        ctx.sizes = sizes
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        hidden, routing = ctx.like
        size, products_size, inner_size = ctx.sizes
        routed = routing.numel()
        _weighted = None if ctx.weights else hidden.new_empty(routed, size, dtype=torch.float32)
        outputs = hidden.new_empty(routed, size)
        routing_gradient = torch.empty_like(routing)
        del _weighted, ctx.kept[1:]
        _weight = hidden.new_empty(ctx.weights[1]) if ctx.weights else None
        inner = hidden.new_empty(routed, inner_size)
        del _weight, outputs
        products = hidden.new_empty(routed, products_size)
        del inner
        ctx.kept.clear()
        _weight = hidden.new_empty(ctx.weights[0]) if ctx.weights else None
        _inputs = hidden.new_empty(routed, size)
        del _weight, products
        return torch.empty_like(hidden), routing_gradient, None, None, None
