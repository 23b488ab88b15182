"""Ends a worker process when the process that started it has died."""

import os
import threading
from multiprocessing import connection, parent_process


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
