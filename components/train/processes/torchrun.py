"""Behaviour of a process that torchrun started, from ``launch.py`` or by hand on several machines.

torchrun sets the environment variables ``RANK``, ``LOCAL_RANK`` and ``WORLD_SIZE`` for each process. Does not import
torch, because the settings of its memory allocator must come first.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from components.shared.errors import UserError
from components.shared.telemetry.progress import PROGRESS_FILE_VARIABLE

# torchrun notices within 0.1 s that a process ended, and sends SIGTERM to the others.
_SECONDS_FOR_THE_FIRST_FAILURE = 3.0


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    given = os.environ
    return "RANK" in given and ("LOCAL_RANK" in given or int(given.get("WORLD_SIZE", "1")) > 1)


@contextmanager
def one_of_several(num_gpus: int) -> Iterator[None]:
    """Within the block, behave as one of torchrun's processes; do nothing in a process that torchrun did not start.

    All processes but the first are silent: no progress bars, no log lines below errors. If the block fails, only the
    process that failed first reports its error; the others fail because they lost that process, and stay silent.

    Raises:
        UserError: ``num_gpus`` is above 1 and not the number of processes on this machine.
    """
    if not started_by_torchrun():
        yield
        return
    first = os.environ["RANK"] == "0"
    if not first:
        for name in (None, "components"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ[PROGRESS_FILE_VARIABLE] = os.devnull
    try:
        _check_number(num_gpus)
        yield
    except Exception as error:
        if not (isinstance(error, UserError) and first):
            _let_the_first_failure_speak()
        raise


def _check_number(num_gpus: int) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_gpus not in (1, here):
        raise UserError(
            f"it is {num_gpus}, and torchrun started {here} processes on this machine",
            where="num_gpus",
            mend="leave it out, or start one process and let it call torchrun",
        )


def _let_the_first_failure_speak() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_SECONDS_FOR_THE_FIRST_FAILURE)
