"""The table of an environment's keys in docs/environments.md, generated from the fields.

python -m pipelines.definition.environment_reference
"""

import json
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.definition.environment import Environment


def reference() -> str:
    """Return a Markdown table: each key, its default, what it becomes."""
    return "\n".join(["| key | default | what it is |", "| --- | --- | --- |", *_rows(Environment, "", {})])


def _rows(model: type[BaseModel], prefix: str, seen: dict[type[BaseModel], str]) -> list[str]:
    """Return a row per field; ``seen`` maps a model to the key under which its fields are already listed."""
    rows = []
    for name, info in model.model_fields.items():
        inner = _inner_model(info)
        text = info.description or (inner.__doc__ if inner else None) or ""
        place = f"{prefix}{name}{'[]' if _is_list(info) else ''}"
        known = f" (keys as those of `{seen[inner]}`)" if inner in seen else ""
        rows.append(f"| `{prefix}{name}` | {_default(info, inner)} | {_one_line(text)}{known} |")
        if inner is not None and inner not in seen:
            seen[inner] = place
            rows += _rows(inner, f"{place}.", seen)
    return rows


def _inner_model(info: FieldInfo) -> type[BaseModel] | None:
    candidates = (info.annotation, *get_args(info.annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _is_list(info: FieldInfo) -> bool:
    return getattr(info.annotation, "__origin__", None) is list


def _default(info: FieldInfo, inner: type[BaseModel] | None) -> str:
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "null"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`" if value != "" else "empty"


def _one_line(text: str) -> str:
    return re.sub(r"``", "`", " ".join(text.split())).replace("|", "\\|")


if __name__ == "__main__":
    print(reference())
