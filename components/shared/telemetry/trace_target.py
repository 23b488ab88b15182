"""Where spans are sent, and the trace of a pipeline run. Imports no OpenTelemetry."""

import hashlib
import os

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def tracing_endpoint() -> str | None:
    """Return where spans are sent; None where they are not."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return None if off else next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def trace_id_of(run_id: str) -> int:
    """Return the trace of a pipeline run, 128 bits, the same in all of its steps."""
    return int.from_bytes(hashlib.sha256(f"trace {run_id}".encode()).digest()[:16], "big")
