"""Opens pictures for a server, in a process with limits: a hostile picture ends that process, and not the server.

The process is another Python and no fork: the server has PyTorch's threads. It starts with the first picture, and again
after one that ended it. Where no pipe can be handed on (Windows), pictures are opened here, without limits.
"""

import io
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from .opening_process import GIB, SECONDS, how_it_died, serve
from .pictures import decoded_page, opened_page
from .refusal import RefusalError

MOST_PIXELS = 64_000_000
"""An A4 page at 600 dpi has 35 million pixels. A server holds a page three times while it is read."""
_SECONDS_TO_END = 5.0
_PROGRAM = """
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location

folder, descriptor, seconds, gib = sys.argv[1:]
spec = spec_from_file_location("page_reader", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["page_reader"] = module_from_spec(spec)
import_module("page_reader.picture_opener").open_pictures(int(descriptor), int(seconds), float(gib))
"""


class PictureOpener:
    """Opens one picture at a time, from any thread.

    Args:
        seconds: CPU time for each picture.
        gib: memory in GiB, on Linux only.
    """

    def __init__(self, seconds: int = SECONDS, gib: float = GIB) -> None:
        self._seconds, self._gib = seconds, gib
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def picture(self, source: bytes | Path, name: str) -> Any:
        """Return a picture file, or the content of one, in 8-bit grey, as RGB; ``name`` is for the error.

        Raises:
            RefusalError: it cannot be read as a picture, or goes beyond the limits.
        """
        if os.name != "posix":
            return _picture(source, name)
        from PIL import Image

        with self._lock:
            size, gray = self._answer(source, name)
        return Image.frombytes("L", size, gray).convert("RGB")

    def close(self) -> None:
        """End the process; another picture would start another one."""
        if self._end is not None:
            self._end()
        self._process = self._connection = self._end = None

    def _answer(self, source: bytes | Path, name: str) -> tuple[tuple[int, int], bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._connection is not None and self._process is not None
        try:
            self._connection.send((name, source))
            found = self._connection.recv()
            if isinstance(found, str):
                raise RefusalError(found)
            self._connection.recv()  # the end of the task
        except (EOFError, OSError) as error:
            raise RefusalError(f"{name}: {how_it_died(self._exit_code(), self._seconds, self._gib)}") from error
        except RefusalError:
            raise
        except BaseException:
            self.close()  # the answer that was not read would be taken for the next picture's
            raise
        _, size, gray = found
        return size, gray

    def _exit_code(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _start(self) -> None:
        self._connection, connection = BaseContext().Pipe()
        descriptor = connection.fileno()
        folder = str(Path(__file__).resolve().parent)
        # -P: no file beside this package's replaces a module; -B: nothing is added to the package.
        command = [sys.executable, "-P", "-B", "-c", _PROGRAM, folder, str(descriptor), str(self._seconds)]
        self._process = subprocess.Popen(
            [*command, str(self._gib)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what libraries say of foreign bytes
            pass_fds=[descriptor],
        )
        connection.close()
        self._end = weakref.finalize(self, _end, self._process, self._connection)


def open_pictures(descriptor: int, seconds: int, gib: float) -> None:
    """Be that process: open what comes from the connection ``descriptor``."""
    serve(Connection(descriptor), _opened, seconds, gib)


def _opened(task: tuple[str, bytes | Path]) -> Iterator[tuple[int, Any]]:
    name, source = task
    yield 1, _picture(source, name)


def _picture(source: bytes | Path, name: str) -> Any:
    if isinstance(source, Path):
        return opened_page(source, MOST_PIXELS)
    return decoded_page(io.BytesIO(source), name, MOST_PIXELS)


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    with suppress(OSError):
        process.kill()
    process.wait()
    connection.close()
