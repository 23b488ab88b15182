"""LoftQ: the adapter starts as the best low-rank approximation of the quantisation error.

Li et al. (2023), "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", https://arxiv.org/abs/2310.08659,
algorithm 1. PEFT's ``replace_lora_weights_loftq`` does not serve here: it looks weights up in the checkpoint by module
name, but vision-language checkpoints use other names, and it ignores LoRA's scaling.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from bitsandbytes import functional
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from components.shared.errors import UserError
from components.shared.models.model_loading import load_model
from components.train.backends.protocol import AdapterStart
from components.train.config import TrainConfig

log = logging.getLogger(__name__)

_ADAPTER = "default"
_PREFIX = "base_model.model."


@torch.no_grad()
def start_with_loftq(model: PeftModel, config: TrainConfig, dtype: torch.dtype) -> AdapterStart:
    """Set the adapter's initial values, and with ``loftq_iter`` above 1 the 4-bit weights, from the 16-bit weights.

    For each adapted 4-bit module, scaling · B · A becomes the rank-r matrix closest to W - Q in the Frobenius norm.
    Modules that are not quantised keep their initial values. The whole base is read again in ``dtype`` into host memory
    and released before the training begins.

    Raises:
        UserError: no adapted module is in 4 bits, or the base's files contain no 16-bit weights.
    """
    layers = {
        name.removeprefix(_PREFIX): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and _is_in_4_bits(layer.get_base_layer())
    }
    if not layers:
        raise UserError(
            "none of the adapted modules is quantised, so there is nothing to make up for",
            where="init_lora_weights: loftq",
            mend="leave it at default, or name modules of the language model in target_modules",
        )
    original = load_model(
        config.base_model,
        dtype=dtype,
        device=torch.device("cpu"),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    squares = torch.zeros(3)
    for name, layer in layers.items():
        squares += _start_layer(layer, _original_weight(original, name, config), config.loftq_iter)
    weights, without, left = squares.sqrt().tolist()
    facts = {"modules": len(layers), "error": without / weights, "error_with_adapter": left / weights}
    log.info("LoftQ: 4-bit weights of %d modules are off by %.2f %%, with the adapter by %.2f %%", *_shown(facts))
    return AdapterStart({name: value.cpu().clone() for name, value in get_peft_model_state_dict(model).items()}, facts)


def _shown(facts: dict[str, Any]) -> tuple[int, float, float]:
    return facts["modules"], 100 * facts["error"], 100 * facts["error_with_adapter"]


def _is_in_4_bits(module: torch.nn.Module) -> bool:
    return getattr(getattr(module, "weight", None), "quant_state", None) is not None


def _original_weight(original: torch.nn.Module, name: str, config: TrainConfig) -> torch.Tensor:
    weight: Any = original.get_submodule(name).weight
    if not weight.is_floating_point() or _is_in_4_bits(original.get_submodule(name)):
        raise UserError(
            "the model's own weights are quantised already: LoftQ needs those of 16 bits",
            where=f"base_model {config.base_model!r}",
            mend="name the model that it was quantised from, or leave init_lora_weights at default",
        )
    return torch.as_tensor(weight)


def _start_layer(layer: Any, original: torch.Tensor, iterations: int) -> torch.Tensor:
    """Set one module's A and B and return the squared norms of W, W - Q (as loaded) and W - Q - scaling · B · A."""
    base = layer.get_base_layer()
    first, second = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    weight = original.to(base.weight.device, torch.float32)
    residual = weight - _dequantized(base.weight)
    loaded = residual.square().sum()
    product = torch.zeros_like(weight)
    for turn in range(iterations):
        if turn:
            _quantize_again(base, weight - product)
            residual = weight - _dequantized(base.weight)
        b, a = low_rank_part(residual, layer.r[_ADAPTER])
        product = b @ a
    # If r exceeds the matrix's rank, the remaining rows of A keep their values and the columns of B stay zero.
    share = layer.scaling[_ADAPTER] ** -0.5
    first[: len(a)] = a * share
    second[:, : len(a)] = b * share
    return torch.stack([weight.square().sum(), loaded, (residual - product).square().sum()]).cpu()


def low_rank_part(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B (rows × rank) and A (rank × columns) with B · A closest to ``matrix`` in the Frobenius norm.

    From the singular value decomposition (Eckart and Young, 1936); B and A each get the square root of the singular
    values. ``matrix`` has the shape (rows, columns).
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _dequantized(weight: Any) -> torch.Tensor:
    return functional.dequantize_4bit(weight.data, weight.quant_state).to(torch.float32)


def _quantize_again(module: Any, values: torch.Tensor) -> None:
    weight = module.weight
    state = weight.quant_state
    packed, module.quant_state = functional.quantize_4bit(
        values.to(state.dtype),
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        quant_storage=weight.quant_storage,
    )
    weight.data.copy_(packed)
    weight.quant_state = module.quant_state


def subtract_start(folder: Path, start: dict[str, torch.Tensor]) -> None:
    """Turn the adapter that PEFT saved in ``folder`` into one for the 16-bit base: B₁A₁ - B₀A₀, with twice the rank.

    The trained model is Q + s·B₁A₁, where the initial s·B₀A₀ approximates W - Q. Later steps load W itself, so with
    B₁A₁ alone that correction would be added to weights without the error. The result has the form of PEFT's
    ``subtract_mutated_init``: A = [A₁; A₀], B = [B₁, -B₀].
    """
    file, config_file = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    difference = {
        name: torch.cat([values, start[name]], dim=0)
        if ".lora_A." in name
        else torch.cat([values, -start[name]], dim=1)
        for name, values in load_file(file).items()
    }
    save_file(difference, file, metadata={"format": "pt"})
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["r"] *= 2
    config["lora_alpha"] *= 2**0.5 if config["use_rslora"] else 2  # the same scaling: alpha / sqrt(r), or alpha / r
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def without_start(difference: dict[str, torch.Tensor], trained_in: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the trained A₁ and B₁ of an adapter that ``subtract_start`` wrote; ``trained_in`` gives their shapes.

    They belong to the quantised base of the training; the scaling is the same at both ranks.
    """
    shapes = {name: weight.shape for name, weight in trained_in.items()}
    return {name: values[: shapes[name][0], : shapes[name][1]] for name, values in difference.items()}
