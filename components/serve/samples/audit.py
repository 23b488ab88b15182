"""The record of each access to the sample store: one JSON line each, without content."""

import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from components.shared.errors import UserError

Action = Literal["store", "not stored", "list", "read", "delete", "expire"]


class Audit:
    """Adds lines to a file; several processes may add to the same one.

    A line is written before the access it tells of: if it cannot be written, there is no access.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser().absolute()

    def check(self) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._opened())
        except OSError as error:
            problem = f"the audit file cannot be written ({error.strerror or error})"
            raise UserError(problem, where=str(self._path), mend="name another samples.audit_file") from error

    def note(self, who: str, action: Action, request_id: str | None = None) -> None:
        """Add a line.

        Args:
            who: the token's name, ``service`` for the service itself, or the user of the command line.
            request_id: of the request; None for all of them.

        Raises:
            OSError: the line cannot be written whole.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "who": who, "action": action, "request_id": request_id}) + "\n"
        descriptor = self._opened()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # lines of several processes do not mix
            _write_whole(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_whole(descriptor: int, line: bytes) -> None:
    """Add a line to a locked file; on an error the file is as it was."""
    before = os.fstat(descriptor).st_size
    try:
        while line:  # a call may write less than it is given
            line = line[os.write(descriptor, line) :]
    except OSError:
        with suppress(OSError):  # a file that can only grow (chattr +a): the first error is what counts
            os.ftruncate(descriptor, before)
        raise
