"""Attention of vision encoders that pack pictures of different sizes into one row, without a loop over the segments.

Qwen2-VL, Qwen2.5-VL, GLM-OCR, PaddleOCR-VL and relatives attend within segments: a picture, or in Qwen2.5-VL a window
of 64 patches. Without FlashAttention's package, transformers calls PyTorch's attention once for each segment and layer;
four pages of 640 pixels have 144 windows, so Qwen2.5-VL's 32 layers make some four thousand calls. Here segments of
equal length are one batch: a few calls per layer. The sums are the same up to rounding.
"""

import copy
import functools
import inspect
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface

# transformers hands the segments' ends to an implementation whose name says flash, and loops for all others.
_NAME = "flash_by_segment_length"
_LOOPS = "sdpa"
_PLANS = 64  # for the sizes of pages that occur in one training


@dataclass(frozen=True)
class _Plan:
    """Segments in groups of equal length, and the order of rows in which each group is contiguous.

    ``order`` is None where the rows are in this order already; ``back`` restores the original one.
    """

    groups: list[tuple[int, int]]
    """(length, number of segments)"""
    order: torch.Tensor | None
    back: torch.Tensor | None


def attend_by_segment_length(model: torch.nn.Module) -> int:
    """Let the packed attention layers of ``model``'s vision encoder attend in batches; return their number.

    Other layers, and models with another attention implementation than ``sdpa``, are not changed.
    """
    layers: list[Any] = [module for module in model.modules() if _loops_over_segments(module)]
    if layers:
        AttentionInterface.register(_NAME, _attend)
    # Copies: transformers looks for an implementation named flash on the hub when it makes a model of a config.
    for config in {id(layer.config): layer.config for layer in layers}.values():
        own = copy.copy(config)
        own._attn_implementation = _NAME
        for module in model.modules():
            if getattr(module, "config", None) is config:
                module.config = own
    return len(layers)


def _loops_over_segments(module: Any) -> bool:
    config = getattr(module, "config", None)
    if not hasattr(module, "scaling") or getattr(config, "_attn_implementation", None) not in (_LOOPS, _NAME):
        return False
    return "cu_seqlens" in inspect.signature(module.forward).parameters


@torch.compiler.disable
def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the output of shape (1, rows, heads, head size); the inputs are (1, heads, rows, head size)."""
    plan = _plan_of(tuple(cu_seq_lens_q.tolist()), query.device)
    rows = [tensor[0] if plan.order is None else tensor[0][:, plan.order] for tensor in (query, key, value)]
    outputs, start = [], 0
    for length, count in plan.groups:
        end = start + length * count
        queries, keys, values = (tensor[:, start:end].unflatten(1, (count, length)).transpose(0, 1) for tensor in rows)
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, scale=scaling
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        start = end
    output = torch.cat(outputs)
    return (output if plan.back is None else output[plan.back]).unsqueeze(0), None


@functools.lru_cache(_PLANS)
def _plan_of(ends: tuple[int, ...], device: torch.device) -> _Plan:
    """Return the plan for segments that end at ``ends`` (0 first)."""
    segments = [(start, end) for start, end in pairwise(ends) if end > start]
    counts = Counter(end - start for start, end in segments)
    groups = sorted(counts.items())
    in_order = sorted(segments, key=lambda segment: segment[1] - segment[0])
    if in_order == segments:
        return _Plan(groups, None, None)
    with torch.inference_mode(False):  # the plan outlives a surrounding inference mode
        order = torch.cat([torch.arange(start, end) for start, end in in_order])
        return _Plan(groups, order.to(device), order.argsort().to(device))
