"""Imitates on the meta device how Unsloth's training step uses memory, where transformers' step differs.

Two differences, from unsloth_zoo 2026.10.9. ``offload_layer_inputs``: checkpointed layers keep their inputs in host
memory (gradient_checkpointing.py). ``ChunkedLoss``: the loss is computed in chunks, and the forward pass computes the
hidden states' gradient as well, so that the logits of all rows never exist at once (fused_losses/fused_linear.py).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

# _MIN_LOGITS, _MAX_ROWS and _BWD_TILE_BYTES of unsloth_zoo's fused_linear.py. On a GPU of more than 24.5 GiB, tiles are
# used from _MAX_ROWS rows on. Logits are float32.
_LEAST_LOGITS = 512 * 151_936
_MOST_ROWS = 4096
_TILE_BYTES = 256 * 2**20


class ChunkedLoss(torch.autograd.Function):
    """The fused loss: hidden states of shape (pages, tokens, size) and the output layer's weight give a scalar.

    Unsloth skips rows without a label; here all rows count as labelled.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, output_weight: torch.Tensor) -> torch.Tensor:
        """Allocate the hidden states' gradient, one buffer of float32 logits (reused for their gradient), and rows."""
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
        """Return the gradient from the forward pass."""
        gradient = ctx.gradient
        del ctx.gradient
        return gradient, None


def fused_loss(bare: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the loss that the fused kernel computes from the last hidden states of a model without PEFT's wrapper."""
    given = {name: value for name, value in inputs.items() if name != "labels"}
    # Rows are padded at the end, so Unsloth uses causal attention without a mask. transformers would build a mask of
    # tokens x tokens unless it gets a four-dimensional one.
    given["attention_mask"] = torch.empty((1, 1, 1, 1), dtype=torch.bool, device="meta")
    loss: torch.Tensor = ChunkedLoss.apply(_last_hidden(bare, given), bare.get_output_embeddings().weight)
    return loss


def _last_hidden(bare: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return what the output layer gets; families differ in which module computes it."""
    head = bare.get_output_embeddings()
    forward, head.forward = head.forward, lambda hidden: hidden
    try:
        hidden: torch.Tensor = bare(**inputs).logits
    finally:
        head.forward = forward
    return hidden


def _rows_of_a_chunk(rows: int, size: int, vocabulary: int) -> int:
    """Return the rows of a chunk, a power of two unless there are fewer rows.

    A chunk has about as many logits as there are values in the hidden states, but at least about 2^26 logits (512 rows
    or more) and at most ``_MOST_ROWS`` rows.
    """
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
        hidden = ctx.buffer.detach().requires_grad_()  # the values come back from host memory into the buffer
        with torch.enable_grad(), ctx.mode:
            output = ctx.layer(hidden, *ctx.rest)
        torch.autograd.backward(output if isinstance(output, torch.Tensor) else output[0], gradients[0])
        return None, None, None, hidden.grad, *(None for _ in ctx.rest)


def offload_layer_inputs(model: torch.nn.Module, mode: AbstractContextManager[Any]) -> None:
    """Checkpoint every layer of ``model`` that transformers can checkpoint, and keep its input in host memory.

    For the backward pass, inputs are copied into two buffers per shape, which are never freed. ``mode`` is entered when
    a layer runs for the second time.
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
