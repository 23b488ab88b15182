"""OpenTelemetry spans of a request: one for the request, one for each page, and below it one for each phase.

No attribute holds anything of a request's content: no text, file name, instruction or address of a client.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from components.serve.batching.page_job import PageJob, PageReading
from components.shared.telemetry.tracing import current_tracer

_FIRST_SERVER_ERROR = 500
_WITHOUT_MESSAGES = {"record_exception": False, "set_status_on_exception": False}
"""an exception's message may hold what the client sent"""


@contextmanager
def request_span(method: str, route: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any | None]:
    """Open the span of a request and make it the current one; None where tracing is off.

    It is below the span that the header ``traceparent`` names (W3C Trace Context), otherwise it begins a trace.
    """
    tracer = current_tracer()
    if tracer is None:
        yield None
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name.startswith(b"trace")}
    with tracer.start_as_current_span(
        f"{method} {route}",
        context=TraceContextTextMapPropagator().extract(carrier, Context()),
        kind=SpanKind.SERVER,
        attributes={"http.request.method": method, "http.route": route},
        **_WITHOUT_MESSAGES,
    ) as opened:
        yield opened


@contextmanager
def request_part(name: str) -> Iterator[None]:
    """Trace the block as a part of the current request."""
    tracer = current_tracer()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(name, **_WITHOUT_MESSAGES):
        yield


def describe_answer(opened: Any | None, status: int, state: dict[str, Any]) -> None:
    """Set a request's attributes; of the failures, those of the server make the span's status *error*."""
    if opened is None:
        return
    known = {f"deepsynth.{name}": state[name] for name in ("request_id", "pages", "model") if name in state}
    opened.set_attributes({"http.response.status_code": status, **known})
    failure = state.get("failure")
    if failure is not None:
        opened.set_attribute("error.type", failure)
    if status >= _FIRST_SERVER_ERROR:
        _mark_failed(opened, failure or str(status))


def trace_pages(jobs: Iterable[PageJob]) -> None:
    """Start a span for each page below the current one; nothing where tracing is off or the request is not sampled."""
    tracer = current_tracer()
    if tracer is None:
        return
    from opentelemetry.trace import get_current_span

    if not get_current_span().is_recording():
        return
    for number, job in enumerate(jobs, start=1):
        job.span = tracer.start_span("page", attributes={"deepsynth.page": number, "deepsynth.model": job.model})
        job.result.add_done_callback(partial(_end_page, tracer, job, job.span))


def trace_headers(opened: Any | None) -> dict[str, str]:
    """Return the headers (W3C Trace Context) that put another program's spans below this one; none without a span."""
    if opened is None:
        return {}
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(opened, Context()))
    return headers


def _end_page(tracer: Any, job: PageJob, opened: Any, result: "Future[PageReading]") -> None:
    """End a page's span when it has a reading, has failed, or nobody waits for it any more."""
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    below, at = set_span_in_context(opened, Context()), _clock()
    for phase in job.phases:
        tracer.start_span(phase.name, context=below, start_time=at(phase.began)).end(at(phase.ended))
    if result.cancelled():
        _mark_failed(opened, "cancelled")
    elif error := result.exception():
        _mark_failed(opened, type(error).__name__)
    else:
        reading = result.result()
        figures = {"tokens": reading.tokens, "prompt_tokens": reading.prompt_tokens}
        marks = {"truncated": reading.truncated, "loop": reading.loop}
        opened.set_attributes({f"deepsynth.{name}": value for name, value in (figures | marks).items()})
    opened.end()


def _clock() -> Callable[[float], int]:
    """Return a function from ``time.monotonic()`` to nanoseconds of Unix time."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda monotonic: offset + int(monotonic * 1e9)


def _mark_failed(opened: Any, reason: str) -> None:
    from opentelemetry.trace import StatusCode

    opened.set_attribute("error.type", reason)
    opened.set_status(StatusCode.ERROR, reason)
