"""Python's fork server: one process that has imported what its children need."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext
from pathlib import Path

from components.shared.artifacts.output_folder import scratch_folder

# Bytes of a socket's name with its final zero: 108 on Linux, 104 on macOS (sun_path in <sys/un.h>).
_LONGEST_SOCKET_NAME = 103
_SOCKET = "/.fs-00000000.partial-0000000-00000000/pymp-00000000/listener-00000000"
_SHORT_FOLDER = "/tmp"
_AFTER_MULTIPROCESSING = -200
"""multiprocessing removes its own temporary folder at -100; lower numbers come later."""
_folders = ExitStack()
_folder: Path | None = None


def running_fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start this process's fork server, unless it runs, and return the context that starts processes from it.

    Args:
        preload: modules that the server imports when it starts, and its children therefore have.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))  # without effect if the server runs already
    with _temporary_files_in(_folder_for_a_socket()):
        forkserver.ensure_running()
    return context


def _folder_for_a_socket() -> Path:
    """Return this process's folder for the server's socket; what killed processes left is removed.

    It is among the temporary files, or in /tmp if the socket's name would be too long there. multiprocessing makes a
    folder in it, and keeps to it from then on.
    """
    global _folder
    if _folder is None:
        is_short = len(os.fsencode(tempfile.gettempdir() + _SOCKET)) <= _LONGEST_SOCKET_NAME
        with _temporary_files_in(Path(tempfile.gettempdir() if is_short else _SHORT_FOLDER)):
            _folder = _folders.enter_context(scratch_folder("fs"))
        util.Finalize(None, _folders.close, exitpriority=_AFTER_MULTIPROCESSING)
    return _folder


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
