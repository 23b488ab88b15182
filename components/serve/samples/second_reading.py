"""The canary's second reading: the champion reads what the challenger has answered, while no client waits."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace

from components.serve.adapters.catalog import Catalog, UnknownModelError
from components.serve.batching.fair_queue import FairQueue, QueueClosedError
from components.serve.batching.page_job import PageJob, PageReading
from components.serve.observability.meter import Meter
from components.serve.samples.waiting_samples import Sample, WaitingSamples

_CLIENT = "second reading"
_SECONDS_TO_WAIT = 600.0  # for a moment without clients, and the reading; then the page has no second reading
_SECONDS_BETWEEN_LOOKS = 0.5  # a version that shall be unloaded is held back no longer


class SecondReader:
    """Reads pages again, one at a time, after their answers; it holds no version back that nobody else needs.

    Args:
        queue: of the engine; a page waits there behind every client's.
        catalog: keeps the version loaded while it reads.
        max_pages: pages that may wait here; those beyond have one reading.
    """

    def __init__(self, queue: FairQueue, catalog: Catalog, meter: Meter, max_pages: int) -> None:
        self._queue, self._catalog, self._meter = queue, catalog, meter
        self._waiting = WaitingSamples(max_pages)
        self._stopping = threading.Event()

    def start(self, keep: Callable[[Sequence[Sample]], None]) -> None:
        """Start the thread; ``keep`` stores a second reading."""
        threading.Thread(target=self._run, args=(keep,), name="second-readings", daemon=True).start()

    def offer(self, samples: Sequence[Sample]) -> None:
        """Queue a request's pages."""
        if not self._waiting.put(samples):
            self._meter.sampled("not_compared", len(samples))

    def stop(self) -> None:
        """End the thread; what waits stays without a second reading."""
        self._stopping.set()
        self._waiting.close()

    def _run(self, keep: Callable[[Sequence[Sample]], None]) -> None:
        while not self._stopping.is_set():
            sample = self._waiting.take(time.monotonic() + _SECONDS_TO_WAIT)
            if sample is None:
                continue
            reading = self._second(sample)
            if reading is None:
                self._meter.sampled("not_compared", 1)
            else:
                keep([replace(sample, role="champion", reading=reading)])

    def _second(self, sample: Sample) -> PageReading | None:
        try:
            version = self._catalog.admit(sample.second_version, sample.request_id).version
        except UnknownModelError:
            return None  # it was unloaded meanwhile
        deadline = time.monotonic() + _SECONDS_TO_WAIT
        longest = self._catalog.reading(version).longest(sample.max_new_tokens)  # each version has its own
        job = PageJob(sample.image, sample.instruction, version, _CLIENT, longest, deadline)
        try:
            self._queue.put_in_background(job)
            return self._waited_for(job.result, version)
        except QueueClosedError:
            return None
        finally:
            job.result.cancel()
            self._catalog.release(version)

    def _waited_for(self, result: "Future[PageReading]", version: str) -> PageReading | None:
        """Return the reading; None if it fails, which the engine's metrics and log tell, or is given up.

        It is given up when the service stops, and when the version shall be unloaded: nobody waits for a comparison.
        """
        while not self._stopping.is_set() and version in self._catalog.versions():
            try:
                error = result.exception(timeout=_SECONDS_BETWEEN_LOOKS)
            except FutureTimeoutError:
                continue
            return None if error else result.result()
        return None
