"""What a user probably meant by a setting that does not exist or has a wrong value."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

_ALIASES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "accumulation_steps": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "rank": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "warmup": "warmup_ratio",
    "modules": "target_modules",
    "lora_target_modules": "target_modules",
    "max_seq_length": "max_length",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "model": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "dataset": "source",
    "data": "source",
    "gpus": "num_gpus",
}
"""Usual names of other trainers and notebooks -> ours, which are Hugging Face's and PEFT's."""
_SHOWN_KEYS = 20
"""More known keys than this do not help in one line."""
_LIST_ERRORS = ("list_type", "tuple_type", "set_type")


def unknown_key_hint(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return which key of ``model`` the unknown one at ``location`` was probably meant to be."""
    wrong = str(location[-1])
    names = list(_model_at(model, location[:-1]).model_fields)
    meant = [_ALIASES[wrong]] if wrong in _ALIASES else []
    elsewhere = dict(_dotted_names(model))
    found = [name for name in meant if name in names]
    found = found or [key for key, name in elsewhere.items() if name in (wrong, *meant)]
    found = found or difflib.get_close_matches(wrong, names, n=1)
    if not found:
        close = difflib.get_close_matches(wrong, set(elsewhere.values()), n=1)
        found = [key for key, name in elsewhere.items() if name in close]
    if found:
        return f" (did you mean {' or '.join(repr(one) for one in found)}?)"
    return f" (known: {', '.join(names)})" if len(names) <= _SHOWN_KEYS else ""


def problem_with_value(entry: Any) -> str:
    """Return what is wrong with a value, from an entry of pydantic's report."""
    value = entry["input"]
    if entry["type"] in _LIST_ERRORS and not isinstance(value, dict):
        return f"must be a list, written in brackets with commas, such as [{'a, b' if value is None else value}]"
    return str(entry["msg"]).removeprefix("Value error, ")


def _dotted_names(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the name of every field, those of inner models too."""
    for name, info in model.model_fields.items():
        yield prefix + name, name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _dotted_names(info.annotation, f"{prefix}{name}.")


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return model
        model = annotation
    return model
