"""The engine ``vllm``: takes pages from the queue, and has a vLLM server read them."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from components.serve.batching.fair_queue import FairQueue
from components.serve.config import ServeConfig
from components.serve.engines.protocol import EngineDownError, EngineStoppedError
from components.serve.observability.meter import Meter
from components.serve.reading.version_reading import VersionReading
from components.serve.vllm.lives import Lives
from components.serve.vllm.page_reading import read_page
from components.serve.vllm.prompts import Prompts
from components.serve.vllm.server import Server, server_of

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SECONDS_IDLE = 0.2  # an idle engine looks for work that often without being woken
_SECONDS_BETWEEN_CLEANINGS = 0.5


class VllmEngine:
    """Reads pages with a vLLM server; see ``Engine``. A thread of its own has an asyncio loop with a task per page.

    Args:
        config: where the server is, and how pages are read.
        base_name: the base's name in requests.
        queue: the waiting pages; their fairness and bounds are its.
        meter: counts and times.
        scratch: a folder for the server's files.
        with_rule: a version of the start has a rule against repetitions, whatever ``config`` says.

    Raises:
        UserError: a setting is wrong.
    """

    def __init__(
        self,
        config: ServeConfig,
        base_name: str,
        queue: FairQueue,
        meter: Meter,
        scratch: Path,
        with_rule: bool = False,
    ) -> None:
        self.ready: Future[VersionReading] = Future()
        self._config, self._base_name, self._queue, self._meter = config, base_name, queue, meter
        self._scratch = scratch
        self._server: Server = server_of(config, base_name, scratch, with_rule)
        self._loop = asyncio.new_event_loop()
        self._pages: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._lives: Lives | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, and in it the server."""
        self._thread.start()

    def load(self, name: str, folder: Path) -> "Future[VersionReading]":
        """Load an adapter into the server, and prove that it is used."""

        async def order(lives: Lives) -> VersionReading:
            started = time.monotonic()
            reading = await lives.load(name, folder)
            self._meter.adapter_loaded(time.monotonic() - started)
            return reading

        return self._ordered(order)

    def unload(self, name: str) -> "Future[None]":
        """Unload an adapter from the server."""
        return self._ordered(lambda lives: lives.unload(name))

    def failure(self) -> Exception | None:
        """Return why the server is not started again."""
        return self._failure

    def step_seconds(self) -> float:
        """Return 0: the thread only waits for the server, and gives up each page at its deadline."""
        return 0.0

    def outage(self) -> str | None:
        """Return why the server reads no pages for the moment."""
        return self._lives.outage if self._lives is not None and self.ready.done() else None

    def running_pages(self) -> int:
        """Return the pages that the server has."""
        return len(self._pages)

    def stop(self) -> None:
        """End the server, if it is ours; what is not finished fails."""
        self._stopping.set()
        self._queue.wake()
        self._thread.join()

    def _ordered(self, order: Callable[[Lives], Coroutine[Any, Any, Result]]) -> "Future[Result]":
        lives, done = self._lives, Future[Result]()
        if self._failure is not None or self._stopping.is_set():
            done.set_exception(EngineStoppedError("the engine has stopped"))
            return done
        if lives is None:
            done.set_exception(EngineDownError("the engine is starting"))
            return done
        return asyncio.run_coroutine_threadsafe(order(lives), self._loop)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._live())
            except Exception as error:
                self._failure = error
                if not self.ready.done():
                    self.ready.set_exception(error)
                else:
                    logger.error("the engine has failed: %s", error)
            finally:
                self._server.stop()
            self._queue.close()
            self._queue.fail_all(EngineStoppedError("the engine has stopped"))

    async def _live(self) -> None:
        """Keep the server up and give it pages until the engine is stopped, or until it cannot be started again."""
        prompts = await asyncio.to_thread(Prompts, self._config, self._server.is_ours)
        self._lives = Lives(
            self._config, self._base_name, self._server, prompts, self._meter, self._went_down, self._scratch
        )
        keeping_up = asyncio.create_task(self._lives.keep_up(self.ready))
        reading = asyncio.create_task(self._read_pages(self._lives))
        done, _ = await asyncio.wait([keeping_up, reading], return_when=asyncio.FIRST_COMPLETED)
        for task in (keeping_up, reading, *self._pages):
            task.cancel()
        await asyncio.gather(keeping_up, reading, *self._pages, return_exceptions=True)
        for task in done:
            task.result()

    async def _read_pages(self, lives: Lives) -> None:
        cleaned = time.monotonic()
        while not self._stopping.is_set():
            if time.monotonic() - cleaned > _SECONDS_BETWEEN_CLEANINGS:
                self._queue.drop_unwanted()
                cleaned = time.monotonic()
            room = self._config.max_batch_size - len(self._pages)
            if self.ready.done() and lives.outage is not None:
                self._queue.fail_all(EngineDownError(lives.outage))
                room = 0
            if room > 0 and lives.outage is None and self._take_pages(lives, room):
                continue
            if room > 0 and lives.outage is None:
                await asyncio.to_thread(self._queue.wait, _SECONDS_IDLE)
            elif self._pages:
                await asyncio.wait(self._pages, timeout=_SECONDS_IDLE, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(_SECONDS_IDLE)

    def _take_pages(self, lives: Lives, room: int) -> bool:
        """Begin to read pages, those of each version in turn; return whether there were any."""
        waiting = self._queue.models()
        for place, model in enumerate(waiting):
            share = -(-room // (len(waiting) - place))
            for job in self._queue.take(model, share):
                task = asyncio.create_task(read_page(lives, job))
                self._pages.add(task)
                task.add_done_callback(self._pages.discard)
                room -= 1
        if waiting:
            self._meter.batch(len(self._pages))
        return bool(waiting)

    def _went_down(self, reason: str) -> None:
        """Fail every page that was read or waits."""
        for task in self._pages:
            task.cancel(reason)
        self._queue.fail_all(EngineDownError(reason))
