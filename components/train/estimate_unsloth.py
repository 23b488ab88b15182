"""What Unsloth does otherwise than transformers, as far as memory goes, for the meta device.

Read from unsloth_zoo 2026.10.9: checkpointed layers keep their inputs in host memory (gradient_checkpointing.py), and
the loss is computed in chunks that bring the hidden states' gradient with them (fused_losses/cross_entropy_loss.py).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

# _CE_TARGET_GB_CAP and _CE_BYTES_PER_LOGIT of unsloth_zoo; chunks come in multiples of four.
_CHUNK_TARGET_BYTES = 4 * 2**30
_BYTES_PER_LOGIT = 16


class ChunkedLoss(torch.autograd.Function):
    """The fused loss: hidden states of shape (pages, tokens, size) and the output layer's weight to a scalar."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, output_weight: torch.Tensor) -> torch.Tensor:
        """Hold one chunk's logits in 16 bits, in float32, as log-probabilities and as gradients."""
        rows, vocabulary = hidden.shape[0] * hidden.shape[1], output_weight.shape[0]
        chunks = 4 * math.ceil(rows * vocabulary * _BYTES_PER_LOGIT / _CHUNK_TARGET_BYTES / 4)
        shape = (math.ceil(rows / min(max(chunks, 1), rows)), vocabulary)
        ctx.gradient = torch.empty_like(hidden)
        _chunk = (
            torch.empty(shape, dtype=hidden.dtype, device=hidden.device),
            *(torch.empty(shape, dtype=torch.float32, device=hidden.device) for _ in range(3)),
        )
        return torch.empty((), dtype=torch.float32, device=hidden.device)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient that the forward pass left."""
        return ctx.gradient, None


class _Offloaded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Callable[..., Any], mode: AbstractContextManager[Any], hidden: torch.Tensor, *rest: Any
    ) -> Any:
        ctx.layer, ctx.mode, ctx.rest = layer, mode, rest
        ctx.kept = hidden.shape, hidden.dtype  # the values are in host memory
        with torch.no_grad():
            return layer(hidden, *rest)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        shape, dtype = ctx.kept
        hidden = torch.empty(shape, dtype=dtype, device=gradients[0].device, requires_grad=True)
        with torch.enable_grad(), ctx.mode:
            output = ctx.layer(hidden, *ctx.rest)
        torch.autograd.backward(output if isinstance(output, torch.Tensor) else output[0], gradients[0])
        return None, None, hidden.grad, *(None for _ in ctx.rest)


def offload_layer_inputs(model: torch.nn.Module, mode: AbstractContextManager[Any]) -> None:
    """Checkpoint every layer of ``model`` that transformers can checkpoint, with its input in host memory.

    ``mode`` is entered when a layer runs for the second time.
    """

    def checkpoint(layer: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        return _Offloaded.apply(layer, mode, *inputs)

    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True  # type: ignore[assignment]
            module._gradient_checkpointing_func = checkpoint  # type: ignore[assignment]
