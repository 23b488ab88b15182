"""Model FLOPs utilisation (MFU): the share of the device's peak FLOP/s that the language model's useful work reaches.

Formula: Chowdhery et al., 2022, "PaLM", appendix B (arXiv:2204.02311): a token costs 6 N + 12 L H Q T floating-point
operations in a forward and a backward pass, with N weights, L layers, H heads of size Q and T tokens in its row. Two
changes: a frozen weight counts 4 instead of 6, because its own gradient is not computed, and of a mixture of experts
only the experts that a token visits count. Padding, recomputed activations and the vision encoder are not counted, so
the result is a lower bound.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch.nn.utils import parametrize

# NVIDIA's figures for dense tensor-core peaks in FLOP/s (sparse figures halved), not measured here: bfloat16, and
# float16 for the T4, which has no bfloat16. Checked against sellers' and third parties' copies of the data sheets (the
# originals were not at hand), except those of the NVL cards. The first pattern that matches the device's name counts.
_PEAKS = (
    (r"H200 NVL|H100 NVL", 835e12),
    (r"H100 PCIe", 756e12),
    (r"H200|H100", 989e12),
    (r"A100", 312e12),
    (r"\bL4\b", 121e12),
    (r"\bT4\b", 65e12),
)


def peak_flops(device_name: str) -> float | None:
    """Return the device's peak for 16-bit products in FLOP/s; None if it is unknown.

    >>> peak_flops("NVIDIA H200"), peak_flops("Tesla T4"), peak_flops("NVIDIA L40S")
    (989000000000000.0, 65000000000000.0, None)
    """
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, device_name)), None)


class LanguageModelFlops:
    """Floating-point operations of a training step, by the formula above."""

    def __init__(self, model: torch.nn.Module) -> None:
        bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        inner = getattr(bare, "model", bare)
        parts = [getattr(inner, "language_model", inner), getattr(bare, "lm_head", None)]
        text = bare.config.get_text_config()
        visited = getattr(text, "num_experts_per_tok", None) or 1
        self.per_token = sum(_weight_flops(module, visited) for part in parts if part for module in part.modules())
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.per_token_pair = 12 * text.num_hidden_layers * text.num_attention_heads * head

    def of_rows(self, lengths: Sequence[int]) -> float:
        """Return the operations for rows with these numbers of tokens, without padding."""
        return self.per_token * sum(lengths) + self.per_token_pair * sum(length**2 for length in lengths)


def _weight_flops(module: torch.nn.Module, visited_experts: int) -> float:
    if isinstance(module, torch.nn.Linear):  # from the layer's sizes: 4-bit layers store packed weights
        return (6 if module.weight.requires_grad else 4) * module.in_features * module.out_features
    experts = getattr(module, "num_experts", None)
    if not isinstance(experts, int):
        return 0
    stacked = [(weight.shape, weight.requires_grad) for weight in module.parameters(recurse=False) if weight.dim() == 3]
    if parametrize.is_parametrized(module):
        packed: Any = module.parametrizations
        stacked += [(parts[0].shape, False) for parts in packed.values() if hasattr(parts[0], "shape")]
    values = sum((6 if trained else 4) * shape.numel() for shape, trained in stacked)
    return values * visited_experts / experts
