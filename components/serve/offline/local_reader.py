"""Reads pages in this process, with the service's engine and without HTTP."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType

from PIL import Image

from components.serve.adapters.sources import ModelFiles
from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.page_job import PageJob, PageReading
from components.serve.config import ServeConfig
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.observability.meter import Meter

_SECONDS_PER_PAGE = 3600.0  # nobody else waits: a slow machine may take its time
_CLIENT = "read"


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
        self._queue = FairQueue(config.max_queued_pages, config.max_queued_pixels)
        self._base = f"base of {files.name}" if files.folder else files.name
        self._engine = EmbeddedEngine(config, self._base, self._queue, Meter())

    def __enter__(self) -> "LocalReader":
        self._engine.start()
        self._engine.ready.result()
        if self._files.folder is not None:
            self._engine.load(self._files.name, self._files.folder).result()
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
        ahead = 2 * self._config.max_batch_size
        waiting: deque[PageJob] = deque()
        for page in pages:
            if len(waiting) == ahead:
                yield waiting.popleft().result.result()
            deadline = time.monotonic() + _SECONDS_PER_PAGE
            job = PageJob(page, None, self._files.name, _CLIENT, self._config.max_new_tokens, deadline)
            self._queue.put([job])
            waiting.append(job)
        while waiting:
            yield waiting.popleft().result.result()
