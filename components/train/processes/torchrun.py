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
from datetime import timedelta

from components.shared.errors import UserError
from components.shared.telemetry.progress import PROGRESS_FILE_VARIABLE

CPU_PROCESSES_VARIABLE = "DEEPSYNTH_CPU_PROCESSES"
"""if set to 1, ``num_gpus`` processes may share the CPU of a machine without CUDA devices, to try a training"""
# torchrun sends SIGTERM to the others within 0.1 s of a process's end; the first one may tidy up before it.
_SECONDS_UNTIL_TORCHRUN_ENDS_ALL = 60.0
_LOST = ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
"""In what gloo and NCCL raise where another process is gone."""
_ANSWER_OF_THE_STORE = timedelta(seconds=5)


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    given = os.environ
    return "RANK" in given and ("LOCAL_RANK" in given or int(given.get("WORLD_SIZE", "1")) > 1)


@contextmanager
def one_of_several(num_gpus: int) -> Iterator[None]:
    """Within the block, behave as one of torchrun's processes; do nothing in a process that torchrun did not start.

    All processes but the first are silent: no progress bars, no log lines below errors. If the block fails, only the
    process that failed first reports its error. The others found the same, or fail because they lost that process: they
    stay silent and end with exit code 1.

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
        if _lost_a_process(error):
            # That one was killed, and cannot say so: torchrun does, and ends this process.
            _wait_until_torchrun_ends_this()
        elif not _failed_first():
            _wait_until_torchrun_ends_this()
            raise SystemExit(1) from None
        raise


def _check_number(num_gpus: int) -> None:
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_gpus not in (1, here):
        raise UserError(
            f"it is {num_gpus}, and torchrun started {here} processes on this machine",
            where="num_gpus",
            mend="leave it out, or start one process and let it call torchrun",
        )


def _lost_a_process(error: Exception) -> bool:
    from torch.distributed import DistError

    lost = isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST)
    return lost or isinstance(error, DistError)


def _failed_first() -> bool:
    """Return whether this process is the first to fail, by a count in the store of torchrun's agent."""
    from torch.distributed import DistError, TCPStore

    given = os.environ
    attempt = f"{given.get('TORCHELASTIC_RUN_ID')}/{given.get('TORCHELASTIC_RESTART_COUNT')}"
    try:
        store = TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), is_master=False, timeout=_ANSWER_OF_THE_STORE)
        return bool(store.add(f"deepsynth/failures/{attempt}", 1) == 1)
    except (DistError, KeyError):
        return True  # without an agent the first process had the store, and is gone: better said twice than not at all


def _wait_until_torchrun_ends_this() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_SECONDS_UNTIL_TORCHRUN_ENDS_ALL)
