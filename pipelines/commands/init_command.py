"""``deepsynth init``: write a short settings file to start from."""

from pathlib import Path
from typing import Annotated

import typer

from components.shared.errors import UserError

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
