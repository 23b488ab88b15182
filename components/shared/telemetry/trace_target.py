"""Where spans are sent, the trace of a pipeline run, and the open span. Imports OpenTelemetry only where it is on."""

import hashlib
import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_endpoint() -> str | None:
    """Return the address that spans are sent to; None where tracing is off."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return None if off else next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def trace_id_of(run_id: str) -> int:
    """Return the trace id of a pipeline run (128 bits): the same in all its steps."""
    return int.from_bytes(hashlib.sha256(f"trace {run_id}".encode()).digest()[:16], "big")


def current_span_ids() -> dict[str, str]:
    """Return ``trace_id`` and ``span_id`` of the span that is open in this thread; nothing where none is."""
    if tracing_endpoint() is None:
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}
