"""Why a folder cannot be written: whose it is, and who this process is."""

import errno
import os
import stat
from pathlib import Path

from components.shared.errors import UserError


def not_writable(error: OSError, where: str, folder: Path) -> UserError:
    """Return the error to raise where ``folder``, or the first folder above it that exists, refuses to be written.

    Args:
        error: what the operating system said.
        where: the setting that names the folder, for the message.
        folder: what should have been made or written.
    """
    refused = error.errno in (errno.EACCES, errno.EPERM)
    whose = f"; {owners(folder)}" if refused else ""
    return UserError(f"cannot be written ({error.strerror}){whose}", where=where, mend=_mend(refused))


def owners(path: Path) -> str:
    """Return one line on the first folder at or above ``path`` that exists: its owner, its mode, and this process."""
    existing = next((place for place in (path, *path.parents) if _exists(place)), Path("/"))
    status = existing.stat()
    groups = ", ".join(str(group) for group in sorted({os.getgid(), *os.getgroups()}))
    return (
        f"{existing} belongs to user {status.st_uid}, group {status.st_gid} ({stat.filemode(status.st_mode)}),"
        f" this process is user {os.getuid()}, groups {groups}"
    )


def _mend(refused: bool) -> str:
    if not refused:
        return "name a folder that can be written"
    on_a_cluster = "" if "KUBERNETES_SERVICE_HOST" not in os.environ else (
        "security_context.run_as_user and run_as_group in the environment's file are to be those of the volume"
        " (10001 by default), or "
    )  # fmt: skip
    return f"{on_a_cluster}give this user the right to write there, or name another folder"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that may not be entered
        return False
