"""The parent's handle of a reading child: starts it, takes its messages, and says when it exceeds a limit."""

import fcntl
import os
import pickle
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from components.shared.foreign_files.fork_server import running_fork_server
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits
from components.shared.foreign_files.messages import ITEM, ITEM_WITH_ARRAYS, received_item
from components.shared.foreign_files.reading_child import serve
from components.shared.programs.child_signals import processes_that_ignore_ctrl_c

_SECONDS_BETWEEN_LOOKS = 0.1
_WAITING = 20
"""A child that does not compute may take this many times the limit, in wall time."""
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032  # linux/fcntl.h
_SMALLEST_PIPE = 1 << 14
"""Of macOS. Linux has 64 KiB, and less for a user with a thousand pipes (pipe(7), pipe-user-pages-soft)."""
_MESSAGE_CHUNK = 1 << 16
_FRAME_BYTES = 1 << 16
"""What a message has beside its item: its kind, the sizes of arrays."""
_start_lock = threading.Lock()


class ReadingChild:
    """A running child. ``preload`` names modules that the fork server imports when it starts."""

    def __init__(self, limits: ReadingLimits, workplace: Any, preload: Sequence[str]) -> None:
        self._limits = limits
        with _start_lock, processes_that_ignore_ctrl_c():
            context = running_fork_server(preload)
        tasks, self._tasks = context.Pipe(duplex=False)
        self._results, results = context.Pipe(duplex=False)
        self._messages, messages = context.Pipe(duplex=False)
        if sys.platform == "linux":  # a page's picture has about a megabyte: one write instead of twenty
            with suppress(OSError):
                fcntl.fcntl(results.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)
        arguments = (limits, workplace, dict(os.environ), str(Path.cwd()), tasks, results, messages)
        self._process = context.Process(target=serve, args=arguments, name="foreign file reader", daemon=True)
        with _start_lock, processes_that_ignore_ctrl_c(), _no_main_module():
            self._process.start()
        for connection in (tasks, results, messages):
            connection.close()
        self._said = bytearray()
        self._poll = select.poll()
        self._poll.register(self._results.fileno(), select.POLLIN)
        self._poll.register(self._messages.fileno(), select.POLLIN)
        mine = (self._tasks, self._results, self._messages)
        self._end = weakref.finalize(self, _end, self._process, mine)
        self._seen: psutil.Process | None = None
        self._rss = 0

    @property
    def room_for_tasks(self) -> int:
        """Bytes of tasks that its pipe holds in any case: half of it, for small messages fill its pages by half."""
        pipe = _SMALLEST_PIPE
        if sys.platform == "linux":
            pipe = fcntl.fcntl(self._tasks.fileno(), _F_GETPIPE_SZ)
        return pipe // 2

    def send(self, task: bytes) -> None:
        """Give the child a pickled task. If it has died, ``receive`` says so."""
        with suppress(BrokenPipeError):
            self._tasks.send_bytes(task)

    def started(self) -> None:
        """Take note of the child's memory before its first task."""
        self._seen = psutil.Process(self._process.pid)
        self._rss = self._seen.memory_info().rss

    def receive(self, item: "ItemTime") -> tuple[bytes, Any]:
        """Return the kind of the child's next message, and the item or error in it.

        Raises:
            LimitExceededError: it takes too much time or memory, or has died.
        """
        look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(_SECONDS_BETWEEN_LOOKS * 1000)}
            if self._messages.fileno() in ready:
                self._take_what_it_says()
            if self._results.fileno() in ready:
                try:
                    return self._message()
                except (EOFError, OSError) as error:
                    raise LimitExceededError("crash", self._how_it_died()) from error
            if time.monotonic() >= look:
                self._look(item)
                look = time.monotonic() + _SECONDS_BETWEEN_LOOKS

    def _message(self) -> tuple[bytes, Any]:
        message = self._results.recv_bytes(self._limits.item_bytes + _FRAME_BYTES)
        kind, content = message[:1], memoryview(message)[1:]
        if kind in (ITEM, ITEM_WITH_ARRAYS):
            return kind, received_item(self._results, kind, content)
        return kind, pickle.loads(content) if content else None

    def said(self) -> str:
        """Return what libraries printed since the last call, cut."""
        said = self._said.decode("utf-8", "replace").strip()
        self._said.clear()
        return said

    def end(self) -> None:
        """End the child at once."""
        self._end()

    def kill(self) -> None:
        """Kill the child, from any thread; ``end`` is still to be called."""
        with suppress(ValueError):  # another thread has ended it
            self._process.kill()

    def is_alive(self) -> bool:
        """Return whether the child has not died."""
        return self._process.is_alive()

    def _look(self, item: "ItemTime") -> None:
        if self._seen is None:
            return
        with suppress(psutil.NoSuchProcess):  # it died: the end of its pipe says so
            with self._seen.oneshot():
                times, memory = self._seen.cpu_times(), self._seen.memory_info().rss
            if memory - self._rss > self._limits.memory_bytes:
                raise LimitExceededError("memory", self._limits.memory_problem())
            item.check(times.user + times.system)

    def _take_what_it_says(self) -> None:
        chunk = os.read(self._messages.fileno(), _MESSAGE_CHUNK)
        if not chunk:  # it closed both outputs
            self._poll.unregister(self._messages.fileno())
        self._said += chunk[: self._limits.message_bytes - len(self._said)]

    def _how_it_died(self) -> str:
        self._process.join(_SECONDS_BETWEEN_LOOKS)
        code = self._process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        said = self.said().splitlines()
        last = f"; its last words: {said[-1]}" if said else ""
        memory = f"{self._limits.memory_bytes / 2**30:.3g} GiB"
        return f"the process that read it died ({how}): a fault of a library, or more than {memory} of memory{last}"


def pickled(task: Any) -> bytes:
    """Return a task as ``ReadingChild.send`` takes it."""
    return bytes(ForkingPickler.dumps(task))


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide this program's main module: multiprocessing would run it again in each child, which needs nothing of it.

    Importing the main module of a KFP task takes a second.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ItemTime:
    """The time that the child takes for one item; it counts only while this process waits for the child."""

    def __init__(self, limits: ReadingLimits) -> None:
        self._limits = limits
        self._seconds = limits.seconds
        self._start: tuple[float, float] | None = None

    def add_part(self) -> None:
        """Give the item more time: a part of it has been read."""
        self._seconds += self._limits.seconds_per_part

    def check(self, cpu_seconds: float) -> None:
        """Compare the child's CPU time and the clock with those of the first call.

        Raises:
            LimitExceededError: the item's time is over.
        """
        now = time.monotonic()
        if self._start is None:
            self._start = cpu_seconds, now
        cpu, clock = cpu_seconds - self._start[0], now - self._start[1]
        if cpu > self._seconds or clock > _WAITING * self._seconds:
            raise LimitExceededError("time", self._limits.time_problem(self._seconds))


def _end(process: BaseProcess, connections: Sequence[Connection]) -> None:
    process.kill()
    process.join()
    process.close()
    for connection in connections:
        connection.close()
