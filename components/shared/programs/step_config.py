"""The base class of every step's configuration, and how files and text are parsed into it."""

import difflib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.errors import UserError
from components.shared.programs.yaml_text import parsed_yaml


class StepConfig(BaseModel):
    """A step's whole interface: unknown keys are errors, and field docstrings are the ``--help`` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


ConfigModel = TypeVar("ConfigModel", bound=BaseModel)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds one mapping.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the config file cannot be read ({error})", where=str(path)) from error
    return parse_config_text(text, where=str(path))


def parse_config_text(text: str, where: str) -> dict[str, Any]:
    """Parse YAML or JSON text that holds one mapping; empty text is an empty mapping.

    Raises:
        UserError: the text is not YAML, has a key twice, or is not a mapping.
    """
    try:
        value = parsed_yaml(text)
    except ValueError as error:
        raise UserError(f"not valid YAML or JSON ({error})", where=where) from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError("must hold one mapping of names to values", where=where)
    return value


def validated(model: type[ConfigModel], values: dict[str, Any], where: str) -> ConfigModel:
    """Return ``values`` as ``model``.

    Raises:
        UserError: names the first offending key and, for an unknown one, the nearest known key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise user_error(error, model, where) from error


def user_error(error: ValidationError, model: type[BaseModel], where: str) -> UserError:
    """Turn pydantic's report into one line that names every invalid key."""
    lines = []
    for entry in error.errors(include_url=False):
        key = ".".join(str(part) for part in entry["loc"]) or "config"
        if entry["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}{_nearest(model, entry['loc'])}")
        elif entry["type"] == "missing":
            lines.append(f"{key!r} is required")
        else:
            message = entry["msg"].removeprefix("Value error, ")
            given = f" (given: {json.dumps(entry['input'], default=str)[:80]})" if entry["loc"] else ""
            lines.append(f"{key!r}: {message}{given}")
    return UserError(", ".join(lines), where=where, mend="see --help for the keys and their types")


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    names = list(_model_at(model, location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(names)})"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return model
        model = annotation
    return model
