"""Ends a child process when the process that started it has died."""

import os
import sys
import threading
from multiprocessing import connection, parent_process

_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL (linux/prctl.h); it stays set across exec
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent died before the call
os.execv(sys.argv[2], sys.argv[2:])
"""


def ending_with_parent(command: list[str]) -> list[str]:
    """Return a command that runs ``command``, and that the kernel kills when this process dies, even by SIGKILL.

    On Linux only; elsewhere ``command`` itself. Start it from the main thread: the kernel goes by the thread that
    started the child. ``command`` begins with an absolute path.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def end_with_parent() -> None:
    """End this process, started by ``multiprocessing``, as soon as its parent has died, even by SIGKILL.

    A thread waits for the pipe that the parent holds open. In a process without a parent this does nothing.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)  # the parent is gone: nobody takes results or reads an error

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
