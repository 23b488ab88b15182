"""Training presets: named sets of settings, defined in ``presets.yaml``."""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from components.shared.programs.step_config import read_config_file

_PRESETS_FILE = Path(__file__).with_name("presets.yaml")


class Preset(BaseModel):
    """A named set of training settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: str
    """when to use it, in a few words"""
    settings: dict[str, Any]
    """fields of TrainConfig and their values"""


@cache
def presets() -> dict[str, Preset]:
    """Return the presets by name, in the file's order."""
    return TypeAdapter(dict[str, Preset]).validate_python(read_config_file(_PRESETS_FILE))


def with_preset(values: Any) -> Any:
    """Return ``values`` merged over the settings of the preset that ``values["preset"]`` names; unchanged without one.

    Raises:
        ValueError: there is no preset of that name.
    """
    name = values.get("preset") if isinstance(values, dict) else None
    if not isinstance(name, str):  # None, or another type, which the field's validation rejects
        return values
    if name not in presets():
        raise ValueError(f"preset: there is no {name!r}, the presets are {', '.join(presets())}")
    return {**presets()[name].settings, **values}


def without_preset_settings(values: dict[str, Any], name: Any) -> dict[str, Any]:
    """Return ``values`` without those that the preset ``name`` sets; all of them if there is no such preset.

    >>> without_preset_settings({"r": 16, "max_steps": 9}, "high_capacity")
    {'max_steps': 9}
    """
    return {key: value for key, value in values.items() if key not in _settings_of(name)}


def settings_beside_preset(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the ``values`` that differ from the preset they name: name -> (value, the preset's value).

    >>> settings_beside_preset({"preset": "minimal", "r": 16, "lora_alpha": 8})
    {'r': (16, 4)}
    """
    settings = _settings_of(values.get("preset"))
    return {key: (values[key], value) for key, value in settings.items() if key in values and values[key] != value}


def _settings_of(name: Any) -> dict[str, Any]:
    """Return a preset's settings; empty for an unknown preset, which validation rejects."""
    return presets()[name].settings if isinstance(name, str) and name in presets() else {}


def preset_table() -> list[dict[str, str]]:
    """Return one row per preset with the columns ``preset``, ``purpose`` and ``settings``, for printing."""
    return [
        {
            "preset": name,
            "purpose": preset.purpose,
            "settings": ", ".join(f"{key} {_shown(value)}" for key, value in preset.settings.items()),
        }
        for name, preset in presets().items()
    ]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
