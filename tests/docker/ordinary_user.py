"""Run `deepsynth` as an ordinary user if the tests run as root: in the engine's group, and with root's read access.

The read access is for the interpreter and the checkout, which may be in one of root's folders; the process writes files
as any user would.
"""

import os
from pathlib import Path

from tests.pipeline.deepsynth_run import SMALL_RUN

UID = 12345


def as_user(command: list[str]) -> list[str]:
    """Return the command that runs ``command`` as an ordinary user."""
    if os.getuid() != 0:
        return command
    socket = Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    identity = ["--reuid", str(UID), "--regid", str(UID), "--groups", str(socket.stat().st_gid)]
    return ["setpriv", *identity, "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", *command]


def user_id() -> int:
    """Return the id of the user that ``as_user`` runs commands as."""
    return UID if os.getuid() == 0 else os.getuid()


def given_to_user(folder: Path) -> Path:
    """Make a folder that belongs to the user."""
    folder.mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(folder, UID, UID)
    return folder


def settings(**given: object) -> list[str]:
    """Return ``--set`` options that extend or override those of ``SMALL_RUN``; __ stands for a dot."""
    values = SMALL_RUN | {name.replace("__", "."): value for name, value in given.items()}
    return [f"--set={name}={value}" for name, value in values.items()]


def foreign_files(folder: Path) -> list[Path]:
    """Return the paths in ``folder`` that do not belong to the user."""
    return [path for path in folder.rglob("*") if path.lstat().st_uid != user_id()]
