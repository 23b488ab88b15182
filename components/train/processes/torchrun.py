"""A process among several of one training, which torchrun started: by ``launch.py``, or by hand on many machines.

torchrun tells each process its place in the environment: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``. Imports no torch:
settings of its memory allocator come first.
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

# torchrun sees within 0.1 s that a process ended, and sends SIGTERM to the others.
_SECONDS_FOR_THE_FIRST_FAILURE = 3.0


def started_by_torchrun() -> bool:
    """Return whether this process is one of those that torchrun starts."""
    given = os.environ
    return "RANK" in given and ("LOCAL_RANK" in given or int(given.get("WORLD_SIZE", "1")) > 1)


@contextmanager
def one_of_several(num_gpus: int) -> Iterator[None]:
    """Behave as one of torchrun's processes within the block; one that it did not start does nothing here.

    All but the first are silent: no progress bars, no log lines below errors. Where the block fails, whoever failed
    first is heard, and not those that lost their partner by it.

    Raises:
        UserError: the number of processes on this machine is not ``num_gpus``, which is above 1.
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
