"""What Unsloth does otherwise than transformers, as far as memory goes, for the meta device.

Read from unsloth_zoo 2026.10.9: checkpointed layers keep their inputs in host memory (gradient_checkpointing.py), and
the loss is computed in chunks that bring the hidden states' gradient with them (fused_losses/fused_linear.py).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

# fused_linear.py of unsloth_zoo: _MIN_LOGITS, _MAX_ROWS (also the least rows that go through tiles, on a GPU of more
# than 24.5 GiB) and _BWD_TILE_BYTES. Logits are float32.
_LEAST_LOGITS = 512 * 151_936
_MOST_ROWS = 4096
_TILE_BYTES = 256 * 2**20


class ChunkedLoss(torch.autograd.Function):
    """The fused loss: hidden states of shape (pages, tokens, size) and the output layer's weight to a scalar.

    The unlabelled rows, which Unsloth leaves out, are counted as labelled.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, output_weight: torch.Tensor) -> torch.Tensor:
        """Hold one buffer of float32 logits, which the gradients replace, and the hidden states' gradient."""
        rows, size, vocabulary = hidden.shape[0] * hidden.shape[1], hidden.shape[2], output_weight.shape[0]
        chunk = _rows_of_a_chunk(rows, size, vocabulary)
        logits = chunk * vocabulary if rows < _MOST_ROWS else min(chunk * vocabulary, _TILE_BYTES // 4)
        ctx.gradient = torch.empty_like(hidden)
        _buffers = (
            torch.empty(-(-logits // vocabulary), vocabulary, dtype=torch.float32, device=hidden.device),
            torch.empty(min(rows, _MOST_ROWS), size, dtype=torch.float32, device=hidden.device),
        )
        return torch.empty((), dtype=torch.float32, device=hidden.device)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient that the forward pass left."""
        gradient = ctx.gradient
        del ctx.gradient
        return gradient, None


def _rows_of_a_chunk(rows: int, size: int, vocabulary: int) -> int:
    """A power of two: as many rows as logits take the room of the hidden states, but at least 2^26 logits or so."""
    least = min(max(_power_of_two_below(_LEAST_LOGITS / vocabulary), 512), _MOST_ROWS)
    chunk = min(max(_power_of_two_below(rows * size / vocabulary), least), _MOST_ROWS)
    return max(1, min(chunk, rows))


def _power_of_two_below(value: float) -> int:
    return 1 << max(math.floor(math.log2(max(value, 1))), 0)


class _Offloaded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: Callable[..., Any],
        mode: AbstractContextManager[Any],
        buffer: torch.Tensor,
        hidden: torch.Tensor,
        *rest: Any,
    ) -> Any:
        ctx.layer, ctx.mode, ctx.buffer, ctx.rest = layer, mode, buffer, rest
        with torch.no_grad():
            return layer(hidden, *rest)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        hidden = ctx.buffer.detach().requires_grad_()  # the values were in host memory
        with torch.enable_grad(), ctx.mode:
            output = ctx.layer(hidden, *ctx.rest)
        torch.autograd.backward(output if isinstance(output, torch.Tensor) else output[0], gradients[0])
        return None, None, None, hidden.grad, *(None for _ in ctx.rest)


def offload_layer_inputs(model: torch.nn.Module, mode: AbstractContextManager[Any]) -> None:
    """Checkpoint every layer of ``model`` that transformers can checkpoint, with its input in host memory.

    The inputs come back into two buffers, which stay. ``mode`` is entered when a layer runs for the second time.
    """
    buffers: dict[torch.Size, list[torch.Tensor]] = {}

    def checkpoint(layer: Callable[..., Any], hidden: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        if hidden.shape not in buffers:
            buffers[hidden.shape] = [torch.empty_like(hidden) for _ in range(2)]
        return _Offloaded.apply(layer, mode, buffers[hidden.shape][0], hidden, *inputs)

    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True  # type: ignore[assignment]
            module._gradient_checkpointing_func = checkpoint  # type: ignore[assignment]
