"""`deepsynth` as a user who is not root, where the tests are: of the engine's group, and with read access like root's.

The access to read is for the interpreter and the checkout, which may lie in a folder of root's; what it writes is
written as any user would.
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
    """Make a folder of the user's."""
    folder.mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(folder, UID, UID)
    return folder


def settings(**given: object) -> list[str]:
    """Return ``--set`` options above those of ``SMALL_RUN``; __ stands for a dot."""
    values = SMALL_RUN | {name.replace("__", "."): value for name, value in given.items()}
    return [f"--set={name}={value}" for name, value in values.items()]


def foreign_files(folder: Path) -> list[Path]:
    """Return what in ``folder`` does not belong to the user."""
    return [path for path in folder.rglob("*") if path.lstat().st_uid != user_id()]
