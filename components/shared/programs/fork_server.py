"""Python's fork server: one process that has imported what its children need."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

# Bytes of a socket's name with its final zero: 108 on Linux, 104 on macOS (sun_path in <sys/un.h>).
_LONGEST_SOCKET_NAME = 103
_SOCKET = "/pymp-00000000/listener-00000000"
_SHORT_FOLDER = "/tmp"


def running_fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start this process's fork server, unless it runs, and return the context that starts processes from it.

    Args:
        preload: modules that the server imports when it starts, and its children therefore have.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))  # without effect if the server runs already
    with _folder_for_a_socket():
        forkserver.ensure_running()
    return context


@contextmanager
def _folder_for_a_socket() -> Iterator[None]:
    """Let temporary folders be made in /tmp within the block if a socket's name in TMPDIR would be too long."""
    if len(os.fsencode(tempfile.gettempdir() + _SOCKET)) <= _LONGEST_SOCKET_NAME:
        yield
        return
    before = tempfile.tempdir
    tempfile.tempdir = _SHORT_FOLDER
    try:
        yield
    finally:
        tempfile.tempdir = before
