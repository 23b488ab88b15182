"""The child's side: takes tasks from a pipe, opens foreign files and sends what they hold, one item after the other."""

import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits
from components.shared.foreign_files.messages import END, ERROR, PART, READY, send_item
from components.shared.programs.memory_limit import data_bytes, set_data_limit
from components.shared.programs.parent_watch import end_with_parent, killed_with_parent

_LIKELY_VICTIM = b"500"
"""Where memory is short, the kernel ends this process before others (proc(5), oom_score_adj: -1000 to 1000)."""
_results: Connection | None = None


def part_read() -> None:
    """Tell the parent that a part of the document has been read, e.g. a page: it then gives the document more time.

    In a process that is no such child this does nothing.
    """
    if _results is not None:
        _results.send_bytes(PART)


def serve(
    limits: ReadingLimits,
    workplace: Any,
    environment: dict[str, str],
    folder: str,
    tasks: Connection,
    results: Connection,
    messages: Connection,
) -> None:
    """Do the tasks that come from ``tasks`` until it is closed.

    Args:
        workplace: the first argument of each reading function.
        environment, folder: the parent's variables and working folder of now; a fork server has those of its start.
        messages: gets what this process and its libraries print.
    """
    global _results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    killed_with_parent()
    end_with_parent()
    for descriptor in (1, 2):
        os.dup2(messages.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _limit_this_process(limits.memory_bytes)
    _results = results
    results.send_bytes(READY)
    while True:
        try:
            read, task = tasks.recv()
        except EOFError:
            return
        results.send_bytes(_done(read, workplace, task, results, limits))


def _done(
    read: Callable[[Any, Any], Iterator[Any]],
    workplace: Any,
    task: Any,
    results: Connection,
    limits: ReadingLimits,
) -> bytes:
    """Send the items of a task, and return the message that ends it."""
    try:
        for item in read(workplace, task):
            send_item(results, item, limits.item_bytes)
        return END
    except MemoryError:
        return ERROR + pickle.dumps(LimitExceededError("memory", limits.memory_problem()))
    except Exception as error:
        return ERROR + _pickled(error)


def _pickled(error: Exception) -> bytes:
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # almost anything: it is a library's exception that cannot be sent
        error = RuntimeError(where)
    else:
        error.add_note(f"in the process that reads foreign files:\n{where}")
    return pickle.dumps(error)


def _limit_this_process(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return  # elsewhere RLIMIT_DATA is about the heap alone, and only the parent looks at the memory
    set_data_limit(data_bytes() + memory_bytes)
    Path("/proc/self/oom_score_adj").write_bytes(_LIKELY_VICTIM)
