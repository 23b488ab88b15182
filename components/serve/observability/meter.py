"""Prometheus metrics of the service; no label holds anything of a request's content."""

import threading
import time
from collections.abc import Callable

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from components.serve.batching.page_job import PageReading

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_MEMORY_OF_RATE = 0.8  # of the pages' rate, what stays after a second; it only has to be right within a factor of 2


class Meter:
    """Counts and times; its methods may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "deepsynth_serve_requests",
            "Requests by route and HTTP status",
            ["route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "deepsynth_serve_request_seconds",
            "Seconds of a request",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "deepsynth_serve_page_phase_seconds",
            "Seconds of a page in each phase: queue, prepare, prefill, decode",
            ["phase"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "deepsynth_serve_batch_rows", "Pages in a decoding step", buckets=_ROWS, registry=self._registry
        )
        self._tokens = Counter("deepsynth_serve_tokens", "Tokens that were written", ["model"], registry=self._registry)
        self._pages = Counter("deepsynth_serve_pages", "Pages that were read", ["model"], registry=self._registry)
        self._marks = Counter(
            "deepsynth_serve_marked_pages", "Pages marked as truncated or as a loop", ["mark"], registry=self._registry
        )
        self._failures = Counter("deepsynth_serve_failures", "Failures by reason", ["reason"], registry=self._registry)
        self._samples = Counter(
            "deepsynth_serve_samples",
            "Readings for the sample store: stored, dropped (queue full), not_compared, failed, deleted, expired",
            ["outcome"],
            registry=self._registry,
        )
        self._loads = Histogram(
            "deepsynth_serve_adapter_load_seconds",
            "Seconds to load a version",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._losses = Counter(
            "deepsynth_serve_engine_losses", "How often the model's server was lost", registry=self._registry
        )
        self._recoveries = Histogram(
            "deepsynth_serve_engine_recovery_seconds",
            "Seconds from the loss of the model's server to the first page that can be read again",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rate, self._rate_at = 0.0, time.monotonic()
        self._lock = threading.Lock()
        if torch.cuda.is_available():
            memory = Gauge(
                "deepsynth_serve_gpu_memory_bytes", "Memory that PyTorch has reserved", registry=self._registry
            )
            memory.set_function(lambda: float(torch.cuda.memory_reserved()))

    def watch(self, queued: Callable[[], int], running: Callable[[], int]) -> None:
        """Show how many pages wait, and how many are prepared or decoded."""
        Gauge("deepsynth_serve_queued_pages", "Pages that wait", registry=self._registry).set_function(
            lambda: float(queued())
        )
        Gauge(
            "deepsynth_serve_running_pages", "Pages that are prepared or decoded", registry=self._registry
        ).set_function(lambda: float(running()))

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def page(self, reading: PageReading) -> None:
        """Count a page that was read."""
        for phase, seconds in reading.seconds.items():
            self._phases.labels(phase).observe(seconds)
        self._tokens.labels(reading.model).inc(reading.tokens)
        self._pages.labels(reading.model).inc()
        for mark in ("truncated", "loop"):
            if getattr(reading, mark):
                self._marks.labels(mark).inc()
        with self._lock:
            self._rate = self._rate_now() + (1 - _MEMORY_OF_RATE)

    def batch(self, rows: int) -> None:
        """Record the pages of a step."""
        self._batches.observe(rows)

    def failed(self, reason: str) -> None:
        """Count a failure; ``reason`` is one of a few words."""
        self._failures.labels(reason).inc()

    def sampled(self, outcome: str, readings: int) -> None:
        """Count readings that were kept, lost or removed; ``outcome`` is one of a few words."""
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
