"""The LoRA adapter of both backends: the weights that it adapts, and its initial values."""

import math
import re

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily, in_language_model
from components.train.backends.experts import expert_weights, fused_experts
from components.train.backends.protocol import AdapterStart
from components.train.config import TrainConfig

_OUTSIDE_THE_LANGUAGE_MODEL = re.compile("visual|vision|image|projector|connector|merger|aligner")
# Output layers, and the pooling heads of SigLIP encoders, which the families do not call: they would get no gradient.
_HEADS = re.compile(r"(^|\.)(lm_head|head)(\.|$)")
_MEND_NAMES = "name modules as the model's named_modules() shows them"


def lora_config(config: TrainConfig, model: PreTrainedModel, family: ModelFamily) -> LoraConfig:
    """Return PEFT's settings; without ``target_modules`` in the config, the family's modules are the targets.

    Raises:
        UserError: a target name matches no module of the model, or there are no experts to adapt.
    """
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=target_module_names(config, model, family),
        target_parameters=target_expert_names(config, model) or None,
        bias="none",
    )


def target_module_names(config: TrainConfig, model: PreTrainedModel, family: ModelFamily) -> list[str]:
    """Return the full names of the linear modules that LoRA adapts, in the model's order.

    With ``finetune_vision_layers``, all linear modules outside the language model are among them, but no heads.

    Raises:
        UserError: no linear module matches, or a name in ``target_modules`` matches nothing that can be adapted, or
            only the vision part's modules by their ends; or ``finetune_vision_layers`` adds nothing.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if config.target_modules:
        _check_each_is_found(config.target_modules, [*linear, *target_expert_names(config, model)])
        chosen = {name for given in config.target_modules for name in _named(given, linear, config)}
        names = [name for name in linear if name in chosen]
    else:
        pictures = {name for name in linear if not _HEADS.search(name) and not _is_language(name, linear)}
        added = pictures if config.finetune_vision_layers else set()
        names = [name for name in linear if re.fullmatch(family.language_modules, name) or name in added]
    if not names:
        where = f"target_modules {config.target_modules or family.language_modules}"
        raise UserError("no linear module of the model has one of these names", where=where, mend=_MEND_NAMES)
    if config.finetune_vision_layers and all(_is_language(name, linear) for name in names):
        raise UserError(
            "no linear module outside the language model was chosen, so no vision layer would be trained",
            where="finetune_vision_layers true"
            + (f" with target_modules {config.target_modules}" if config.target_modules else ""),
            mend="leave it off" + (", or name vision modules too" if config.target_modules else ""),
        )
    return names


def _is_language(name: str, linear: list[str]) -> bool:
    """Return whether a module is the language model's; where none is called so, whether nothing says that it is not."""
    if any(map(in_language_model, linear)):
        return in_language_model(name)
    return _OUTSIDE_THE_LANGUAGE_MODEL.search(name) is None


def _check_each_is_found(given: list[str], names: list[str]) -> None:
    if lost := [each for each in given if not any(_ends_with(name, each) for name in names)]:
        problem = f"no linear module of the model is named {' or '.join(lost)}"
        raise UserError(problem, where=f"target_modules {given}", mend=_MEND_NAMES)


def _named(given: str, linear: list[str], config: TrainConfig) -> list[str]:
    """Return the names in ``linear`` that a name or suffix selects; a suffix selects the language model's modules.

    The vision encoder often uses the same names; ``finetune_vision_layers`` or names that say so adapt it.

    Raises:
        UserError: only other parts have modules with this suffix.
    """
    found = [name for name in linear if _ends_with(name, given)]
    if given in found or config.finetune_vision_layers:
        return found
    in_language = [name for name in found if _is_language(name, linear)]
    if not in_language and _OUTSIDE_THE_LANGUAGE_MODEL.search(given):
        return found
    if found and not in_language:
        raise UserError(
            f"no linear module of the language model is named {given}, only others such as {found[0]}",
            where=f"target_modules {config.target_modules}",
            mend="give names that say so to adapt these, or set finetune_vision_layers",
        )
    return in_language


def _ends_with(name: str, given: str) -> bool:
    return name == given or name.endswith(f".{given}")


def target_expert_names(config: TrainConfig, model: PreTrainedModel) -> list[str]:
    """Return the full names of the fused expert weights that LoRA adapts: none unless ``adapt_experts`` is set.

    Raises:
        UserError: the model has no fused experts.
    """
    if not config.adapt_experts:
        return []
    names = [f"{name}.{weight}" for name, module in fused_experts(model) for weight in expert_weights(module)]
    if not names:
        raise UserError("the model has no fused expert weights", where="adapt_experts", mend="leave it off")
    return names


@torch.no_grad()
def start_adapter(model: PeftModel, config: TrainConfig, dtype: torch.dtype) -> AdapterStart | None:
    """Set the adapter's initial values, the same in every backend and on every device.

    By default they follow PEFT and depend on the seed: A is uniform in ±1/sqrt(inputs), B is zero. Unsloth draws other
    values, and trainings with different initial values cannot be compared step by step. ``dtype`` is the base's number
    format. With LoftQ, returns the values to subtract from the trained adapter; otherwise None.
    """
    generator = torch.Generator().manual_seed(config.seed)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.zero_()
        elif ".lora_A." in name:
            bound = 1 / math.sqrt(weight.shape[1])
            weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    if config.init_lora_weights != "loftq":
        return None
    from components.train.backends.loftq import start_with_loftq  # needs bitsandbytes

    return start_with_loftq(model, config, dtype)
