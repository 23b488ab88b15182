"""Prometheus metrics of the service; no label holds anything of a request's content."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from components.serve.batching.page_job import PageReading
from components.serve.observability.failure_reasons import FAILURE_REASONS
from components.shared.versions import tool_version

# Finite ones beyond the longest time of a request (request_timeout_seconds, 120): a quantile is never above the last.
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 100.0, 150.0, 300.0, 600.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_MARKS = ("truncated", "loop")
_OUTCOMES = ("stored", "dropped", "not_compared", "failed", "deleted", "expired")
_MEMORY_OF_RATE = 0.8  # of the pages' rate, what stays after a second; it only has to be right within a factor of 2


class Meter:
    """Counts and times; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by route and HTTP status", "route", "status")
        self._latency = self._seconds("request_seconds", "Seconds of a request", "route")
        self._phases = self._seconds(
            "page_phase_seconds",
            "Seconds of a page in each phase: queue (all waiting), prepare, prefill, decode",
            "phase",
        )
        self._batches = Histogram(
            "deepsynth_serve_batch_rows", "Pages in a decoding step", buckets=_ROWS, registry=self._registry
        )
        self._engine = self._counter(
            "engine_seconds",
            "Seconds of the embedded engine's thread: idle, take (from the queue), enter (prefill), launch (steps),"
            " wait (for a step), answer (take tokens)",
            "part",
        )
        self._tokens = self._counter("tokens", "Tokens that were written", "model")
        self._prompts = self._counter("prompt_tokens", "Tokens of prompts, pictures included", "model")
        self._pages = self._counter("pages", "Pages that were read", "model")
        self._marks = self._counter("marked_pages", "Pages marked as truncated or as a loop", mark=_MARKS)
        self._failures = self._counter("failures", "Failures by reason", reason=FAILURE_REASONS)
        self._samples = self._counter(
            "samples",
            "Readings for the sample store: stored, dropped (queue full), not_compared, failed, deleted, expired",
            outcome=_OUTCOMES,
        )
        self._loads = self._seconds("adapter_load_seconds", "Seconds to load a version")
        self._losses = self._counter("engine_losses", "How often the model's server was lost")
        self._recoveries = self._seconds(
            "engine_recovery_seconds",
            "Seconds from the loss of the model's server to the first page that can be read again",
        )
        self._rate, self._rate_at = 0.0, time.monotonic()
        self._lock = threading.Lock()
        self._show_gpu_memory()
        ProcessCollector(registry=self._registry)
        build = Info("deepsynth_serve_build", "The service's version", registry=self._registry)
        build.info({"version": tool_version()})

    def _counter(self, name: str, text: str, *labels: str, **known: Iterable[str]) -> Counter:
        """Return a counter with ``labels``, or with one label whose values are ``known``.

        Known ones are 0 from the start: Prometheus' ``rate`` does not see a series' first value as an increase.
        """
        counter = Counter(f"deepsynth_serve_{name}", text, [*labels, *known], registry=self._registry)
        for values in known.values():
            for value in values:
                counter.labels(value)
        return counter

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"deepsynth_serve_{name}", text, labels, buckets=_SECONDS, registry=self._registry)

    def _show_gpu_memory(self) -> None:
        """Show the memory of the device; without one the metric is there and has no value."""
        memory = Gauge(
            "deepsynth_serve_gpu_memory_bytes",
            "GPU memory: in tensors (allocated), kept by PyTorch (reserved), of the device (total)",
            ["kind"],
            registry=self._registry,
        )
        if not torch.cuda.is_available():
            return
        total = float(torch.cuda.get_device_properties(0).total_memory)
        memory.labels("total").set(total)
        memory.labels("reserved").set_function(lambda: float(torch.cuda.memory_reserved()))
        memory.labels("allocated").set_function(lambda: float(torch.cuda.memory_allocated()))

    def watch(self, queued: Callable[[], int], running: Callable[[], int], versions: Callable[[], int]) -> None:
        """Show how many pages wait, how many are prepared or decoded, and how many versions are loaded."""
        for name, text, value in (
            ("queued_pages", "Pages that wait", queued),
            ("running_pages", "Pages that are prepared or decoded", running),
            ("loaded_versions", "Versions that can read, the base included", versions),
        ):
            gauge = Gauge(f"deepsynth_serve_{name}", text, registry=self._registry)
            gauge.set_function(lambda value=value: float(value()))  # type: ignore[misc]

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def page(self, reading: PageReading) -> None:
        """Count a page that was read."""
        for phase, seconds in reading.seconds.items():
            self._phases.labels(phase).observe(seconds)
        self._prompts.labels(reading.model).inc(reading.prompt_tokens)
        self._pages.labels(reading.model).inc()
        for mark in _MARKS:
            if getattr(reading, mark):
                self._marks.labels(mark).inc()
        with self._lock:
            self._rate = self._rate_now() + (1 - _MEMORY_OF_RATE)

    def batch(self, rows: int) -> None:
        """Record the pages of a step."""
        self._batches.observe(rows)

    @contextmanager
    def engine_time(self, part: str) -> Iterator[None]:
        """Count the block's time as the embedded engine's in one of its parts."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._engine.labels(part).inc(time.monotonic() - began)

    def wrote(self, model: str, tokens: int) -> None:
        """Count the tokens of a step."""
        self._tokens.labels(model).inc(tokens)

    def failed(self, reason: str) -> None:
        """Count a failure.

        Args:
            reason: one of FAILURE_REASONS.
        """
        self._failures.labels(reason).inc()

    def sampled(self, outcome: str, readings: int) -> None:
        """Count readings that were kept, lost or removed."""
        self._samples.labels(outcome).inc(readings)

    def adapter_loaded(self, seconds: float) -> None:
        """Record how long a version took to load."""
        self._loads.observe(seconds)

    def engine_lost(self) -> None:
        """Count a loss of the model's server."""
        self._losses.inc()

    def engine_recovered(self, seconds: float) -> None:
        """Record how long the model's server was away."""
        self._recoveries.observe(seconds)

    def seconds_until_read(self, pages: int) -> int:
        """Return about how long so many waiting pages take at the rate of the last seconds; from 1 to 60."""
        with self._lock:
            rate = self._rate_now()
        return max(1, min(60, round(pages / rate))) if rate > 0 else 1

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _rate_now(self) -> float:
        """Return pages per second: each page adds 0.2, and a second takes a fifth away."""
        now = time.monotonic()
        self._rate *= _MEMORY_OF_RATE ** (now - self._rate_at)
        self._rate_at = now
        return self._rate
