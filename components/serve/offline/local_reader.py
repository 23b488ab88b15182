"""Reads pages in this process, with the service's engine and without HTTP."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TypeVar

from PIL import Image

from components.serve.adapters.sources import ModelFiles
from components.serve.batching.fair_queue import FairQueue, QueueClosedError
from components.serve.batching.page_job import PageJob, PageReading
from components.serve.config import ServeConfig
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.observability.meter import Meter

_SECONDS_PER_PAGE = 3600.0  # nobody else waits: a slow machine may take its time
_CLIENT = "read"
_PIXELS_AHEAD = 2**28  # 805 MB of RGB

Mark = TypeVar("Mark")
ReadingOrNone = Future[PageReading] | None


class LocalReader:
    """A loaded model; leave the block to free it.

    Args:
        files: the version that reads.
        config: the base, and how large a batch is.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, files: ModelFiles, config: ServeConfig) -> None:
        self._files, self._config = files, config
        self._queue = FairQueue(config.max_queued_pages)
        self._base = f"base of {files.name}" if files.folder else files.name
        self._engine = EmbeddedEngine(config, self._base, self._queue, Meter())

    def __enter__(self) -> "LocalReader":
        self._engine.start()
        reading = self._engine.ready.result()
        if self._files.folder is not None:
            reading = self._engine.load(self._files.name, self._files.folder).result()
        self._longest = reading.max_new_tokens
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._engine.stop()

    def read(self, pages: Iterable[Image.Image]) -> Iterator[PageReading]:
        """Yield the pages' readings in their order; few pages are opened ahead of those that are read.

        Raises:
            Exception: a page cannot be read.
        """
        for _, result in self.each((None, page) for page in pages):
            if result is not None:
                yield result.result()

    def each(self, items: Iterable[tuple[Mark, Image.Image | None]]) -> Iterator[tuple[Mark, ReadingOrNone]]:
        """Yield each item's mark in order, with the future of its page's reading, which is done.

        Items without a picture are yielded with None when those before them are. Two batches of pages are taken ahead
        of those that are read, or fewer if they are large; no picture is kept after its page is read.
        """
        waiting: deque[tuple[Mark, ReadingOrNone, int]] = deque()
        pages = pixels = 0
        for mark, picture in items:
            size = 0 if picture is None else picture.width * picture.height
            while waiting and (
                (pages >= 2 * self._config.max_batch_size or pixels + size > _PIXELS_AHEAD) or _is_done(waiting[0][1])
            ):
                yield _waited_for(waiting[0])
                pages, pixels = pages - (waiting[0][1] is not None), pixels - waiting[0][2]
                waiting.popleft()
            waiting.append((mark, self._submitted(picture) if picture is not None else None, size))
            pages, pixels = pages + (picture is not None), pixels + size
            del picture
        while waiting:
            yield _waited_for(waiting.popleft())

    def _submitted(self, page: Image.Image) -> "Future[PageReading]":
        deadline = time.monotonic() + _SECONDS_PER_PAGE
        job = PageJob(page, None, self._files.name, _CLIENT, self._longest, deadline)
        try:
            self._queue.put([job])
        except QueueClosedError as error:
            raise self._engine.failure() or error from error
        return job.result


def _is_done(result: ReadingOrNone) -> bool:
    return result is None or result.done()


def _waited_for(first: tuple[Mark, ReadingOrNone, int]) -> tuple[Mark, ReadingOrNone]:
    if first[1] is not None:
        wait([first[1]])
    return first[0], first[1]
