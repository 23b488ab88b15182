"""``deepsynth init`` and ``deepsynth config``: write a short settings file to start from; print all settings."""

import json
from pathlib import Path
from typing import Annotated

import typer

from components.shared.errors import UserError
from components.shared.programs.step_config import StepConfig

STARTER_FILE = Path(__file__).parents[1] / "settings" / "starter.yaml"


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("deepsynth.yaml"),
) -> None:
    """Write a settings file with the keys that most runs change; `deepsynth config` prints all keys.

    **Example**: `deepsynth init my.yaml`, edit, `deepsynth run --config my.yaml`
    """
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(STARTER_FILE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UserError("the file exists", where=str(file), mend="give another name") from error
    except OSError as error:
        raise UserError(f"the file cannot be written ({error.strerror})", where=str(file)) from error
    print(f"{file} is ready: edit it, then: deepsynth run --config {file}")


def show_config(
    config: Annotated[Path | None, typer.Option(help="A YAML or JSON file. Default: the quickstart's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")] = None,
) -> None:
    """Print every setting with its meaning, as YAML for `deepsynth run --config`."""
    from pipelines.settings.command_settings import checked_config

    print("\n".join(_commented_lines(checked_config(config, set_ or []))))


def _commented_lines(config: StepConfig, indent: str = "") -> list[str]:
    lines = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if info.description:
            lines.append(f"{indent}# {' '.join(info.description.split())}")
        if isinstance(value, StepConfig):
            lines += [f"{indent}{name}:", *_commented_lines(value, indent + "  ")]
        else:
            text = json.dumps(config.model_dump(mode="json", include={name})[name], ensure_ascii=False)
            lines.append(f"{indent}{'# ' if _is_left_open(config, name) else ''}{name}: {text}")
    return lines


def _is_left_open(config: StepConfig, name: str) -> bool:
    """Return whether to leave an unset value out of the file: the machine or a preset decides it."""
    from components.train.presets import presets

    if name in config.model_fields_set:
        return False
    set_by_presets = {key for preset in presets().values() for key in preset.settings}
    fields = type(config).model_fields
    return fields[name].default_factory is not None or ("preset" in fields and name in set_by_presets)
