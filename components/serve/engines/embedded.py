"""The engine in this process: a thread that loads the models and decodes, so that HTTP never waits for a step."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextvars import copy_context
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from components.serve.batching.fair_queue import FairQueue
from components.serve.config import ServeConfig
from components.serve.engines.lane import Lane, broke_the_device
from components.serve.engines.loaded_models import LoadedModels
from components.serve.engines.protocol import EngineStoppedError
from components.serve.engines.threads import EngineThreads
from components.serve.observability.meter import Meter
from components.serve.reading.version_reading import VersionReading

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SECONDS_IDLE = 0.2  # an idle engine looks for work that often without being woken
_SECONDS_BETWEEN_CLEANINGS = 0.5


class EmbeddedEngine:
    """Reads pages with models in this process; see ``Engine``.

    Each version has a lane with a batch of its own, and the lanes take turns of one decoding call: the rows of a
    recorded step have one adapter, because PEFT chooses the rows of each adapter on the host.
    """

    def __init__(self, config: ServeConfig, base_name: str, queue: FairQueue, meter: Meter) -> None:
        self.ready: Future[VersionReading] = Future()
        self._config, self._base_name, self._queue, self._meter = config, base_name, queue, meter
        self._lanes: dict[str, Lane] = {}
        self._orders: SimpleQueue[tuple[Callable[[LoadedModels], None], Future[Any]]] = SimpleQueue()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._step_began: float | None = None
        here = copy_context()  # with the tracer
        self._thread = threading.Thread(target=here.run, args=(self._run,), name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def load(self, name: str, folder: Path) -> "Future[VersionReading]":
        """Load a version between two steps."""

        def order(models: LoadedModels) -> VersionReading:
            started = time.monotonic()
            try:
                loaded = models.load(name, folder)
            except Exception:
                self._meter.failed("adapter_load")
                raise
            self._lanes[name] = self._lane(models, loaded.name)
            self._meter.adapter_loaded(time.monotonic() - started)
            return loaded.reading

        return self._ordered(order)

    def unload(self, name: str) -> "Future[None]":
        """Unload a version between two steps."""

        def order(models: LoadedModels) -> None:
            lane = self._lanes.pop(name)
            lane.fail(EngineStoppedError(f"{name} was unloaded"))
            models.unload(name)

        return self._ordered(order)

    def failure(self) -> Exception | None:
        """Return the error that ended the thread."""
        return self._failure

    def step_seconds(self) -> float:
        """Return how long the step that runs has taken; 0 between steps, and while a version is loaded."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def outage(self) -> None:
        """Return None: the model is in this process, and without it there is no service."""

    def running_pages(self) -> int:
        """Return the pages in all lanes."""
        return sum(lane.pages() for lane in list(self._lanes.values()))

    def stop(self) -> None:
        """End the thread after the step that runs; what is not finished fails."""
        self._stopping.set()
        self._queue.wake()
        self._thread.join()

    def _ordered(self, order: Callable[[LoadedModels], Result]) -> "Future[Result]":
        done: Future[Result] = Future()

        def obey(models: LoadedModels) -> None:
            try:
                done.set_result(order(models))
            except Exception as error:
                done.set_exception(error)

        self._orders.put((obey, done))
        self._queue.wake()
        if self._failure is not None or self._stopping.is_set():  # after putting it: nobody may take it any more
            self._refuse_orders()
        return done

    def _refuse_orders(self) -> None:
        """Fail the orders that are not begun; whoever waits for one holds up the others, and the service's end."""
        while (order := self._next_order()) is not None:
            order[1].set_exception(EngineStoppedError("the engine has stopped"))

    def _next_order(self) -> tuple[Callable[[LoadedModels], None], "Future[Any]"] | None:
        try:
            return self._orders.get_nowait()
        except Empty:
            return None

    def _run(self) -> None:
        try:
            models = LoadedModels(self._config, self._base_name)
        except Exception as error:
            self._failure = error
            self.ready.set_exception(error)
            self._refuse_orders()
            return
        with EngineThreads(models.device, self._meter) as self._threads:
            self._lanes[self._base_name] = self._lane(models, self._base_name)
            self.ready.set_result(models.of(self._base_name).reading)
            try:
                self._read_pages(models)
            except Exception as error:
                logger.exception("the engine has failed")
                self._meter.failed("engine")
                self._failure = error
            gone = EngineStoppedError("the engine has stopped")
            self._refuse_orders()
            self._queue.close()
            self._queue.fail_all(gone)
            for lane in self._lanes.values():
                lane.fail(gone)

    def _read_pages(self, models: LoadedModels) -> None:
        cleaned = time.monotonic()
        while not self._stopping.is_set():
            self._obey(models)
            if time.monotonic() - cleaned > _SECONDS_BETWEEN_CLEANINGS:
                self._queue.drop_unwanted()
                cleaned = time.monotonic()
            with self._meter.engine_time("take"):
                self._take_pages()
            busy = False
            for name, lane in self._lanes.items():
                busy |= self._turn(models, name, lane)
            if not busy:
                with self._meter.engine_time("idle"):
                    self._rest()

    def _turn(self, models: LoadedModels, name: str, lane: Lane) -> bool:
        """Let a lane decode; return whether it had anything to do."""
        self._step_began = time.monotonic()
        try:
            return lane.turn(lambda: models.activate(name))
        except Exception as error:
            if broke_the_device(error):
                raise
            self._meter.failed("step")
            logger.exception("a step failed, and its pages with it")
            return True
        finally:
            self._step_began = None

    def _obey(self, models: LoadedModels) -> None:
        while (order := self._next_order()) is not None:
            order[0](models)

    def _take_pages(self) -> None:
        waiting = self._queue.models()
        if waiting and not self.running_pages() and len(self._queue) < self._config.max_batch_size:
            time.sleep(self._config.max_wait_ms / 1000)
        for name in waiting:
            lane = self._lanes.get(name)
            if lane is None:
                for job in self._queue.take(name, len(self._queue)):
                    job.fail(EngineStoppedError(f"{name} is not loaded"))
            elif lane.room > 0 and (jobs := self._queue.take(name, lane.room)):
                lane.take(jobs)

    def _rest(self) -> None:
        """Wait for a group that is being prepared, or for a page."""
        preparing = [future for lane in self._lanes.values() for future in lane.preparing()]
        if preparing:
            wait(preparing, timeout=_SECONDS_IDLE, return_when=FIRST_COMPLETED)
        else:
            self._queue.wait(_SECONDS_IDLE)

    def _lane(self, models: LoadedModels, name: str) -> Lane:
        return Lane(models.of(name), self._config.max_batch_size, self._threads, self._meter)
