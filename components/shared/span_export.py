"""How spans leave the process: in the background, for a few seconds at most, and never with an error.

The provider is this project's own and never OpenTelemetry's global one: MLflow has a provider, too.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from components.shared.lineage import tool_version
from components.shared.tracing import root_span_id_of, trace_id_of, tracing_endpoint

logger = logging.getLogger(__name__)

_SECONDS_FOR_A_BATCH = 5.0
_SECONDS_AT_THE_END = 6.0
_OPENTELEMETRY = "opentelemetry"


@contextmanager
def tracer_of_run(first_ids: tuple[int, int] | None = None) -> Iterator[Any]:
    """Yield a tracer; what it made is sent when the block has ended.

    Args:
        first_ids: trace and span id of the first span that has no parent; without it, they are random.
    """
    name = os.environ.get("OTEL_SERVICE_NAME") or "deepsynth"
    resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: tool_version()})
    provider = TracerProvider(resource=resource, id_generator=_Ids(first_ids), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_QuietExporter()))
    try:
        yield provider.get_tracer("deepsynth", tool_version())
    finally:
        # In a thread: a receiver that accepts and does not answer must not hold the step up.
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        closing.join(_SECONDS_AT_THE_END)


def parent_of_steps(run_id: str | None) -> Context | None:
    """Return what the steps' spans are below: ``TRACEPARENT``, else the run's root span; None for a step alone."""
    if given := os.environ.get("TRACEPARENT"):
        carrier = {"traceparent": given, "tracestate": os.environ.get("TRACESTATE", "")}
        return TraceContextTextMapPropagator().extract(carrier)
    if not run_id:
        return None
    sampled = TraceFlags(TraceFlags.SAMPLED)
    root = SpanContext(trace_id_of(run_id), root_span_id_of(run_id), is_remote=True, trace_flags=sampled)
    return set_span_in_context(NonRecordingSpan(root))


class _Ids(RandomIdGenerator):
    def __init__(self, first_ids: tuple[int, int] | None) -> None:
        self._first_ids = first_ids
        self._span_given = False

    def generate_trace_id(self) -> int:
        return self._first_ids[0] if self._first_ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        if self._first_ids and not self._span_given:
            self._span_given = True
            return self._first_ids[1]
        return super().generate_span_id()


class _QuietExporter(SpanExporter):
    """Says once that the endpoint is down; OpenTelemetry says it for each attempt."""

    def __init__(self) -> None:
        self._last_words = _LastWords()
        self._exporter: OTLPSpanExporter | None = None
        self._warned = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            with self._last_words.heard():
                # Made here: a wrong certificate or header is no reason for a step to fail.
                timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else _SECONDS_FOR_A_BATCH
                self._exporter = self._exporter or OTLPSpanExporter(timeout=timeout)
                result = self._exporter.export(spans)
        except Exception as error:
            self._last_words.text = f"{type(error).__name__}: {error}"
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS and not self._warned:
            self._warned = True
            reason = " ".join(self._last_words.text.split())[:300]
            logger.warning("spans cannot be sent to %s, the step goes on: %s", tracing_endpoint(), reason)
        return result

    def shutdown(self) -> None:
        if self._exporter:
            self._exporter.shutdown()


class _LastWords(logging.Handler):
    """Keeps what OpenTelemetry's loggers said last."""

    text = ""

    @contextmanager
    def heard(self) -> Iterator[None]:
        talker = logging.getLogger(_OPENTELEMETRY)
        talker.addHandler(self)
        talker.propagate = False
        try:
            yield
        finally:
            talker.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
