"""Ends data workers: on a SIGTERM to the process group, after a training, and after a failed training."""

import atexit
import multiprocessing
import multiprocessing.util  # registers its own handler at exit, before the one below
import signal
from collections.abc import Callable, Iterable
from typing import Any


def start_worker(start: Callable[[int], Any] | None, worker: int) -> None:
    """Ignore SIGTERM in a data worker, so that a SIGTERM to the whole process group lets the training end in order.

    ``start`` is the worker's own ``worker_init_fn``, if it has one.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if start:
        start(worker)


def end_workers(loaders: Iterable[Any]) -> None:
    """End the persistent workers of ``loaders``; otherwise a later training in this process would wait for them.

    Garbage collection closes their queues before it tells them to stop. It then waits, sends the SIGTERM that they
    ignore, and waits again: 20 s for two workers.
    """
    for loader in loaders:
        iterator, loader._iterator = loader._iterator, None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()  # explicitly: an error's traceback may keep the iterator alive


@atexit.register
def _kill_left_workers() -> None:
    """Kill the data workers of a failed training; Python would send them SIGTERM and wait forever.

    Registered after multiprocessing's own exit handler, so that it runs before it.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report a killed worker as an error
    for process in left:
        process.kill()
