"""Files that programs write where the user says: checked before the work, and whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.shared.errors import UserError


def check_output(output: Path, option: str, *suffixes: str) -> None:
    """Check a file's place before the work that it is written after.

    Raises:
        UserError: its name ends in none of ``suffixes``, its folder is not there, or it is a folder itself.
    """
    where = f"{option} {output}"
    if suffixes and output.suffix not in suffixes:
        raise UserError(f"the file's name must end in {suffixes[0]}", where=where)
    if not output.absolute().parent.is_dir():
        raise UserError("no such folder", where=f"{option} {output.absolute().parent}", mend="make it, or name another")
    if output.is_dir():
        raise UserError("it is a folder, not a file", where=where, mend="name a file in it")


@contextmanager
def written_file(output: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``output``, with its suffix; it is renamed if the block ends without an error."""
    partial = output.with_name(f".{output.stem}.partial-{os.getpid()}{output.suffix}")
    try:
        yield partial
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
