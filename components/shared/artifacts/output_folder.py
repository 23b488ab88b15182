"""Output folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.shared.errors import UserError


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; it is renamed to ``target`` if the block ends without an error.

    An error, Ctrl-C or a kill inside the block leaves no ``target``. The temporary folder (``.<name>.partial-<pid>``)
    is removed, unless the process was killed with SIGKILL.

    Raises:
        UserError: ``target`` exists and is not an empty folder.
    """
    target = Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            "the output folder exists and is not empty", where=str(target), mend="remove it or name another output_dir"
        )
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
