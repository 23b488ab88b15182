"""Opens files in child processes with limits: a hostile one costs its own process, and nobody else waits for it."""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
from PIL import Image

from components.serve.documents.opening import DocumentError, PageFile, read_pages
from components.shared.foreign_files.foreign_reader import ForeignReader
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits

OPENING_MODULES = ("components.serve.documents.opening",)
_CODES = {
    "time": "document_over_time",
    "memory": "document_over_memory",
    "size": "page_too_large",
    "crash": "document_crashed_its_reader",
}
_FILES_OF_A_CHILD = 200
"""Then a new one takes its place: what libraries leak never adds up to the limit of memory."""


class PageOpener:
    """A few reading children that stay between files; each starts when all others are busy.

    Args:
        processes: files that are opened at once.
        limits: for each page.
    """

    def __init__(self, processes: int, limits: ReadingLimits) -> None:
        self._threads = ThreadPoolExecutor(processes, "documents")
        self._closing = threading.Event()
        self._readers = [_CountingReader(limits) for _ in range(processes)]
        self._free: queue.LifoQueue[_CountingReader] = queue.LifoQueue()  # a child that runs is taken first
        for reader in self._readers:
            self._free.put(reader)

    def start(self) -> None:
        """Begin to start the first child."""
        self._threads.submit(self._warmed_up)

    def opened(
        self, file: PageFile, deadline: float, take_pixels: Callable[[int], None] | None = None
    ) -> "Future[list[Image.Image]]":
        """Open a file; the pages to come are 8-bit grey as RGB.

        The future raises DocumentError, or TimeoutError if ``deadline`` (of ``time.monotonic``) is over, or what
        ``take_pixels`` raises, which is called with the pixels of each page that is there.
        """
        return self._threads.submit(self._opened_or_forgotten, file, deadline, take_pixels)

    def close(self) -> None:
        """End all children at once; files that are being opened are given up."""
        self._closing.set()
        for reader in self._readers:
            reader.stop()
        self._threads.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()

    def _warmed_up(self) -> None:
        reader = self._free.get()
        try:
            reader.call(len, b"")
        finally:
            self._free.put(reader)

    def _opened_or_forgotten(
        self, file: PageFile, deadline: float, take_pixels: Callable[[int], None] | None
    ) -> list[Image.Image]:
        try:
            return self._opened(file, deadline, take_pixels)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # else the file and its pages live as long as the error
            raise
        finally:
            del file

    def _opened(self, file: PageFile, deadline: float, take_pixels: Callable[[int], None] | None) -> list[Image.Image]:
        if time.monotonic() > deadline or self._closing.is_set():
            raise TimeoutError
        reader = self._free.get()  # there are as many as threads
        try:
            pages: list[Image.Image] = []
            problem: DocumentError | None = None
            with closing(opened_files(reader, [file])) as files:
                for _, items in files:
                    try:
                        for page in items:
                            pages.append(page)
                            if take_pixels is not None:
                                take_pixels(page.width * page.height)
                            if time.monotonic() > deadline or self._closing.is_set():
                                raise TimeoutError
                    except DocumentError as error:  # kept until the reader is done with the file: its child stays
                        problem = error
            if problem is not None:
                raise problem
            return pages
        finally:
            reader.count()
            self._free.put(reader)


class _CountingReader(ForeignReader):
    """A reader that changes its child after some files."""

    def __init__(self, limits: ReadingLimits) -> None:
        super().__init__(limits, preload=OPENING_MODULES)
        self._files = 0

    def count(self) -> None:
        """Take note of a file."""
        self._files += 1
        if self._files % _FILES_OF_A_CHILD == 0:
            self.close()


def opened_files(
    reader: ForeignReader, files: Iterable[PageFile]
) -> Generator[tuple[PageFile, Iterator[Image.Image]], None, None]:
    """Yield each file with its pages, 8-bit grey as RGB; the pages raise DocumentError."""
    for file, items in reader.each(read_pages, files):
        yield file, _pages(items)


def _pages(items: Iterator[np.ndarray]) -> Iterator[Image.Image]:
    try:
        for page in items:
            yield Image.fromarray(page).convert("RGB")
    except LimitExceededError as error:
        raise DocumentError(error.problem, _CODES[error.limit], too_large=error.limit == "size") from error
