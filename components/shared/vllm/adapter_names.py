"""A LoRA adapter under the module names of vLLM's class, and what vLLM would not load of it."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from components.shared.errors import UserError
from components.shared.models.adapter_patterns import check_adapter_patterns
from components.shared.vllm.served_families import ServedFamily

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"\.lora_[AB]\.weight$")
_NAMED = 5
# vLLM 0.32's PEFTHelper refuses these (lora/peft_helper.py), at the first request rather than when it starts.
_NOT_LOADED = (
    *("use_dora", "lora_bias", "modules_to_save", "alora_invocation_tokens", "layer_replication"),
    *("use_bdlora", "use_qalora", "target_parameters", "trainable_token_indices"),
)
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_MERGE = "export with merge: true, and serve the merged weights; or train without it"


def write_served_adapter(adapter_dir: Path, family: ServedFamily, folder: Path) -> int:
    """Write the adapter into ``folder`` under the names of vLLM's class, and return its largest rank.

    Raises:
        UserError: vLLM would skip or refuse a part of it; the message names the modules.
    """
    config = json.loads((adapter_dir / _CONFIG).read_text(encoding="utf-8"))
    served = served_names(adapter_dir, config, family)
    with safe_open(adapter_dir / _WEIGHTS, "pt") as weights:
        tensors = {new: weights.get_tensor(old).contiguous() for old, new in served.items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    leaves = sorted({_PART.sub("", name).rpartition(".")[2] for name in served.values()})
    config |= {"target_modules": leaves, "exclude_modules": None}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


def check_names(adapter_dir: Path, family: ServedFamily) -> None:
    """Reject an adapter that is not written under the names of vLLM's class.

    Raises:
        UserError: vLLM would skip or refuse a part of it, or all of it.
    """
    config = json.loads((adapter_dir / _CONFIG).read_text(encoding="utf-8"))
    others = [old for old, new in served_names(adapter_dir, config, family).items() if old != new]
    if others:
        raise UserError(
            f"vLLM's {family.vllm_class} has other names for the adapter's {len(others)} tensors and would skip them",
            where=str(adapter_dir / _CONFIG),
            mend="export with serving: [vllm], and load the package",
        )


def served_names(adapter_dir: Path, config: dict[str, Any], family: ServedFamily) -> dict[str, str]:
    """Return the adapter's tensors -> the names that vLLM's class knows.

    Raises:
        UserError: see ``write_served_adapter``.
    """
    where = str(adapter_dir / _CONFIG)
    _check_features(config, where)
    with safe_open(adapter_dir / _WEIGHTS, "pt") as weights:
        names = list(weights.keys())
    served = {name: _PREFIX + family.served_name(name.removeprefix(_PREFIX)) for name in names}
    refused = [old for old, new in served.items() if not _PART.search(old) or not family.adapts(_module(new))]
    if refused:
        modules = sorted({_module(name) for name in refused})
        raise UserError(
            f"vLLM's {family.vllm_class} does not adapt {len(modules)} of the adapter's modules and would read without"
            f" them: {', '.join(modules[:_NAMED])}{' and more' if modules[_NAMED:] else ''}",
            where=where,
            mend=_MERGE,
        )
    check_adapter_patterns(adapter_dir / _CONFIG, [*map(_module, served), *map(_module, served.values())])
    for pattern in ("rank_pattern", "alpha_pattern"):
        _check_pattern(config.get(pattern) or {}, served, pattern, where)
    return served


def _module(tensor: str) -> str:
    return _PART.sub("", tensor.removeprefix(_PREFIX))


def _check_features(config: dict[str, Any], where: str) -> None:
    found = [name for name in _NOT_LOADED if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']!r}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        found.append(f"init_lora_weights {start!r}")
    if config.get("peft_type", "LORA") != "LORA":
        found.append(f"peft_type {config['peft_type']}")
    if found:
        raise UserError(f"vLLM does not load an adapter with {', '.join(found)}", where=where, mend=_MERGE)


def _check_pattern(values: dict[str, Any], served: dict[str, str], name: str, where: str) -> None:
    """Reject patterns that mean other modules under the new names; PEFT and vLLM match them at the names' ends."""

    def matched(module: str) -> list[str]:
        return [pattern for pattern in values if re.match(rf"(.*\.)?({pattern})$", module)]

    others = [_module(old) for old, new in served.items() if matched(_module(old)) != matched(_module(new))]
    if others:
        raise UserError(
            f"{name} does not fit the names that vLLM gives to {', '.join(sorted(set(others))[:_NAMED])}",
            where=where,
            mend="name the modules by their ends, such as q_proj",
        )
