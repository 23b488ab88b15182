"""Attention over a batch of pictures of different sizes in one kernel, with nothing but torch.

transformers' SDPA path calls the vision encoder's attention once per picture and layer; its one-call path needs the
flash-attn package. torch's own ``varlen_attn`` runs the same kernel. Registered as ``flash_torch_varlen``:
transformers takes every name with ``flash`` in it for an implementation that understands packed sequences.
"""

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

NAME = "flash_torch_varlen"


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each of the packed sequences; tensors have shape (1, heads, tokens, head size)."""
    from torch.nn.attention.varlen import varlen_attn

    packed = [tensor.squeeze(0).transpose(0, 1).to(torch.bfloat16).contiguous() for tensor in (query, key, value)]
    longest = int(max_length_q)
    out = varlen_attn(*packed, cu_seq_lens_q, cu_seq_lens_q, longest, longest, scale=scaling)
    return out.unsqueeze(0).to(query.dtype), None


def use_varlen_attention(model: PreTrainedModel) -> None:
    """Switch the vision encoder of ``model`` to ``varlen_attention``; the language model keeps its own."""
    AttentionInterface.register(NAME, varlen_attention)
    for module in model.modules():
        config = getattr(module, "config", None)
        if type(config).__name__.endswith("VisionConfig"):
            config._attn_implementation = NAME
