"""Ends child processes when the process that started them has died."""

import fcntl
import os
import signal
import sys
import threading
from multiprocessing import connection, parent_process

_F_SETSIG = 10  # linux/fcntl.h
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL (linux/prctl.h); it stays set across exec
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent died before the call
os.execv(sys.argv[2], sys.argv[2:])
"""
# The kernel's signal reaches children only, so a watcher stays behind, a child of ``command``, which kills the group.
_GROUP_LAUNCHER = """
import ctypes, os, signal, sys
prctl = ctypes.CDLL(None).prctl
prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
group = os.getpid()
if os.getpgrp() != group:
    os.setpgid(0, 0)
if os.fork() == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    prctl(1, signal.SIGUSR1)
    os.closerange(0, 1024)  # who reads the output waits for its end
    while os.getppid() == group:
        signal.sigwait({signal.SIGUSR1})
    os.killpg(group, 9)
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


def ending_group_with_parent(command: list[str]) -> list[str]:
    """Return a command that runs ``command``, and that ends with this process as ``ending_with_parent`` says, together
    with every process that it has started: when it ends, however it does, the kernel kills its process group.

    It becomes the leader of a group of its own. A process that leaves that group stays. Elsewhere than on Linux
    ``command`` itself.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _GROUP_LAUNCHER, str(os.getpid()), *command]


def killed_with_parent() -> None:
    """Have the kernel kill this process when its parent has died, even while C code holds Python's lock.

    For a process that ``multiprocessing`` started, on Linux only; a dead parent's end of the pipe sends the signal. See
    ``end_with_parent`` for a parent that died before.
    """
    parent = parent_process()
    if parent is None or sys.platform != "linux":
        return
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)


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
