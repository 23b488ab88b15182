"""How data workers end: after a SIGTERM to all, with the training, and with one that failed."""

import atexit
import multiprocessing
import multiprocessing.util  # registers its own handler at exit, before the one below
import signal
from collections.abc import Callable, Iterable
from typing import Any


def start_worker(start: Callable[[int], Any] | None, worker: int) -> None:
    """Let a SIGTERM to the whole process group end the training in order, not its data workers beforehand.

    ``start`` is the worker's own beginning, if it has one.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if start:
        start(worker)


def end_workers(loaders: Iterable[Any]) -> None:
    """End the persistent workers of ``loaders``; a later training in this process would wait for them.

    Left to the garbage collection, their queues are closed before they hear of it: 20 s for two workers, in which
    they are waited for, sent the SIGTERM that they ignore, and waited for again.
    """
    for loader in loaders:
        iterator, loader._iterator = loader._iterator, None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()  # an error's traceback may hold the iterator for longer


@atexit.register
def _kill_left_workers() -> None:
    """End the data workers of a training that failed; Python would send them SIGTERM, and wait for ever.

    Registered behind multiprocessing's own handler, so that it comes before that one.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call the end of a worker an error
    for process in left:
        process.kill()
