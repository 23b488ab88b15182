"""The base class of every step's configuration, and how files and text are parsed into it."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.shared.errors import UserError
from components.shared.programs.setting_hints import problem_with_value, unknown_key_hint
from components.shared.programs.yaml_text import parsed_yaml

SHARED_SETTINGS = ("source", "base_model", "revision", "trust_remote_code", "seed")
"""Settings that stand once at the top of a pipeline's configuration."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What NumPy, PyTorch and Python all take as a seed."""


class StepConfig(BaseModel):
    """A step's whole interface: unknown keys are errors, and field docstrings are the ``--help`` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _null_leaves_it_to_the_machine(cls, values: Any) -> Any:
        """Take null as the default of a field whose default the machine decides, such as a number of workers."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or not _is_left_open(cls, name)}


def _is_left_open(model: type[BaseModel], name: str) -> bool:
    info = model.model_fields.get(name)
    if info is None or info.default_factory is None:
        return False
    return type(None) not in get_args(info.annotation)


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
            lines.append(f"unknown key {key!r}{unknown_key_hint(model, entry['loc'])}")
        elif entry["type"] == "missing":
            lines.append(f"{key!r} is required")
        else:
            given = (
                "" if isinstance(entry["input"], dict) else f" (given: {json.dumps(entry['input'], default=str)[:80]})"
            )
            lines.append(f"{key!r}: {problem_with_value(entry)}{given if entry['loc'] else ''}")
    return UserError(", ".join(lines), where=where, mend="see --help for the keys and their types")
