"""Opens foreign files in a process with limits: a hostile one ends that process, and not the program.

It is forked before PyTorch is imported, so it starts in milliseconds. The limits are the kernel's own (setrlimit); they
bound work and are no sandbox. Where there is no fork (Windows), files are opened here, without limits.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from .pictures import PagePicture, pictures
from .refusal import RefusalError

SECONDS, GIB = 60, 2.0


class OpeningProcess:
    """A context manager; the process starts when it is made.

    Args:
        seconds: CPU time for each page.
        gib: memory in GiB, on Linux only.
    """

    def __init__(self, seconds: int = SECONDS, gib: float = GIB) -> None:
        self._seconds, self._gib = seconds, gib
        self._process = None
        if not hasattr(os, "fork"):
            return
        context = multiprocessing.get_context("fork")
        self._connection, connection = context.Pipe()
        arguments = (connection, self._connection, seconds, gib)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        connection.close()

    def __enter__(self) -> "OpeningProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()

    def pages(self, path: Path) -> Iterator[PagePicture]:
        """Yield each page of a picture file or PDF.

        Raises:
            RefusalError: the file cannot be read, or goes beyond the limits.
        """
        if self._process is None:
            yield from pictures(path)
            return
        from PIL import Image

        try:
            self._connection.send(path)
            while (found := self._connection.recv()) is not None:
                if isinstance(found, str):
                    raise RefusalError(found)
                number, size, gray = found
                yield PagePicture(path, number, Image.frombytes("L", size, gray).convert("RGB"))
        except (EOFError, ConnectionError) as error:
            raise RefusalError(f"{path}: {self._how_it_died()}") from error

    def _how_it_died(self) -> str:
        assert self._process is not None
        self._process.join()
        return how_it_died(self._process.exitcode or 0, self._seconds, self._gib)


def how_it_died(code: int, seconds: int, gib: float) -> str:
    """Return what to say of a file whose opening ended the process; ``code`` is its exit code, or minus a signal."""
    if -code == signal.SIGXCPU:
        return f"opening a page of it takes more than {seconds} seconds"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the process that opened it died ({how}): a fault of a library, or more than {gib:g} GiB of memory"


def _serve(tasks: Connection, of_parent: Connection, seconds: int, gib: float) -> None:
    of_parent.close()  # so that the parent's end shows in ``tasks``
    serve(tasks, _pages_of, seconds, gib)


def _pages_of(path: Path) -> Iterator[tuple[int, Any]]:
    for page in pictures(path):
        yield page.number, page.image


def serve(tasks: Connection, opened: Callable[[Any], Iterator[tuple[int, Any]]], seconds: int, gib: float) -> None:
    """Send the pages of what comes from ``tasks``, each with its number, until the parent has ended.

    After the pages of a task comes None; or its error, as text.
    """
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _lower(resource.RLIMIT_DATA, _data_bytes() + round(gib * 2**30))
    while True:
        try:
            task = tasks.recv()
        except EOFError:
            return
        try:
            _give_time(seconds)
            for number, image in opened(task):
                tasks.send((number, image.size, image.convert("L").tobytes()))
                _give_time(seconds)
            tasks.send(None)
        except RefusalError as refusal:
            tasks.send(str(refusal))
        except MemoryError:
            tasks.send(f"{_name(task)}: opening it takes more than {gib:g} GiB of memory")
        except Exception as error:  # Pillow's decoders raise almost any exception for damaged files
            tasks.send(f"{_name(task)}: cannot be read ({type(error).__name__}: {error})")


def _name(task: Any) -> str:
    """Return the name of a task: a path, or a tuple with the name first."""
    return str(task[0] if isinstance(task, tuple) else task)


def _give_time(seconds: int) -> None:
    """Let the kernel end this process after so many more seconds of CPU time."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def _lower(limit: int, value: int) -> None:
    import resource

    most = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _data_bytes() -> int:
    """Return the private writable memory that this process has mapped (proc(5), VmData)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
