"""A configuration from the command line: ``--config FILE`` and ``--set KEY=VALUE``."""

import sys
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.programs.yaml_text import parsed_yaml
from components.train.presets import settings_beside_preset
from pipelines.settings.pipeline_config import SharedSettings, config_values, pipeline_config, with_overrides


def checked_config(
    path: Path | None, settings: list[str], *, runs_here: bool = True, checkpoints: bool = False
) -> SharedSettings:
    """Return the file's values, or the quickstart's, with ``settings`` above them; note what overrides a preset.

    File and settings are merged and then checked, so that a setting can replace a wrong value of the file. For
    ``runs_here`` and ``checkpoints`` see ``pipeline_config``.

    Raises:
        UserError: a key is unknown, a value is wrong, or the file cannot be read.
    """
    values, where = config_values(path)
    if settings:
        values = with_overrides(values, dict(parsed_setting(setting) for setting in settings))
        where = f"{where} with --set" if path else "--set"
    checked = pipeline_config(values, where, runs_here=runs_here, checkpoints=checkpoints)
    train = values.get("train") or {}
    for name, (given, preset) in settings_beside_preset(train).items():
        print(f"note: train.{name} is {given}, not {preset} as in the preset {train['preset']}", file=sys.stderr)
    return checked


def parsed_setting(setting: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``; the value is YAML.

    Raises:
        UserError: there is no key, or the value is not YAML.
    """
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError("must be KEY=VALUE, e.g. train.learning_rate=1e-4", where=f"--set {setting}")
    try:
        return key.strip(), parsed_yaml(text)
    except ValueError as error:
        raise UserError(f"the value is not valid YAML ({error})", where=f"--set {setting}") from error
