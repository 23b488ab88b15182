"""Finds the fused weights of a model's mixtures of experts."""

import torch


def fused_experts(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Return the name and module of each mixture of experts whose weights are one stacked tensor per projection."""
    return [(name, module) for name, module in model.named_modules() if expert_weights(module)]


def expert_weights(module: torch.nn.Module) -> list[str]:
    """Return the names of a module's own parameters of shape (experts, outputs, inputs)."""
    experts = getattr(module, "num_experts", None)
    return [
        name
        for name, weight in module.named_parameters(recurse=False)
        if experts is not None and weight.dim() == 3 and weight.shape[0] == experts
    ]
