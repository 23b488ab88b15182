"""Sends spans in the background, for a few seconds at most; a failure is logged once and stops nothing.

The provider is this project's own, not OpenTelemetry's global one, because MLflow may set that one.
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
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from components.shared.telemetry.trace_target import trace_id_of, tracing_endpoint
from components.shared.versions import tool_version

logger = logging.getLogger(__name__)

_SECONDS_FOR_A_BATCH = 5.0
_SECONDS_AT_THE_END = 6.0
_OPENTELEMETRY = "opentelemetry"


@contextmanager
def open_tracer(run_id: str | None) -> Iterator[Any]:
    """Yield a tracer; its spans are sent when the block ends at the latest.

    Args:
        run_id: the pipeline run, whose trace id spans without a parent get; None: a random one.
    """
    name = os.environ.get("OTEL_SERVICE_NAME") or "deepsynth"
    resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: tool_version()})
    provider = TracerProvider(resource=resource, id_generator=_Ids(run_id), shutdown_on_exit=False)
    provider.sampler = _WithItsLinks(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(_QuietExporter()))
    try:
        yield provider.get_tracer("deepsynth", tool_version())
    finally:
        # In a thread: a receiver that accepts connections and never answers must not block the step.
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        closing.join(_SECONDS_AT_THE_END)


def given_parent() -> Context | None:
    """Return the context of the span that ``TRACEPARENT`` names; None where it is not set."""
    given = os.environ.get("TRACEPARENT")
    if not given:
        return None
    carrier = {"traceparent": given, "tracestate": os.environ.get("TRACESTATE", "")}
    return TraceContextTextMapPropagator().extract(carrier, Context())


class _Ids(RandomIdGenerator):
    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id

    def generate_trace_id(self) -> int:
        return trace_id_of(self._run_id) if self._run_id else super().generate_trace_id()


class _WithItsLinks(Sampler):
    """Samples a span that links to a sampled one; of others ``OTEL_TRACES_SAMPLER`` decides."""

    def __init__(self, others: Sampler) -> None:
        self._others = others

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        linked = any(link.context.trace_flags.sampled for link in links or ())
        sampler = ALWAYS_ON if linked else self._others
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"linked, or {self._others.get_description()}"


class _QuietExporter(SpanExporter):
    """Logs once per outage that the endpoint is down; OpenTelemetry would log each attempt."""

    def __init__(self) -> None:
        self._reason = _Reason()
        self._exporter: OTLPSpanExporter | None = None
        self._warned = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            with self._reason.heard():
                # Created here, inside the try: a wrong certificate or header must not fail the step.
                timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else _SECONDS_FOR_A_BATCH
                self._exporter = self._exporter or OTLPSpanExporter(timeout=timeout)
                result = self._exporter.export(spans)
        except Exception as error:
            self._reason.text = f"{type(error).__name__}: {error}"
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._warned = False
        elif not self._warned:
            self._warned = True
            reason = " ".join(self._reason.text.split())[:300]
            logger.warning("spans cannot be sent to %s, the step goes on: %s", tracing_endpoint(), reason)
        return result

    def shutdown(self) -> None:
        if self._exporter:
            self._exporter.shutdown()


class _Reason(logging.Handler):
    """Keeps the first message of OpenTelemetry's loggers about a batch: it has the reason, the later ones do not."""

    text = ""

    @contextmanager
    def heard(self) -> Iterator[None]:
        loggers = logging.getLogger(_OPENTELEMETRY)
        loggers.addHandler(self)
        loggers.propagate = False
        self.text = ""
        try:
            yield
        finally:
            loggers.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()
