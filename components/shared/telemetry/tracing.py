"""OpenTelemetry spans of a step: one for the step, one below it for each of its phases.

They are sent where ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` says (OTLP over HTTP);
without it nothing is imported and nothing happens. All steps of a pipeline run are in one trace: that of
``TRACEPARENT`` where it is given, as ``deepsynth run`` does, else one whose id is computed from ``KFP_RUN_ID``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from components.shared.telemetry.json_logs import set_log_context
from components.shared.telemetry.trace_target import tracing_endpoint
from components.shared.versions import software_versions, tool_version

_RUN_ID_VARIABLE = "KFP_RUN_ID"
_PARENT_VARIABLE = "TRACEPARENT"  # W3C Trace Context

Attribute = str | int | float | bool


class _OpenStep:
    """The step's span, and what makes spans below it."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self.tracer = tracer
        self.span = span


_step: _OpenStep | None = None
_innermost: Any = None


@contextmanager
def step_span(step: str, part: str | None = None) -> Iterator[None]:
    """Trace the block as a step of the pipeline run; an error in it is the span's, and propagates."""
    global _step
    if _step is not None or tracing_endpoint() is None:
        yield
        return
    from components.shared.telemetry.span_export import given_parent, open_tracer

    run_id = os.environ.get(_RUN_ID_VARIABLE)
    with open_tracer(run_id) as tracer:
        attributes = {f"version.{name}": version for name, version in software_versions().items()}
        attributes |= {"deepsynth.step": step, "kfp.run_id": run_id or "", "deepsynth.part": part or ""}
        kept = {name: value for name, value in attributes.items() if value}
        span = tracer.start_span(f"{step}: {part}" if part else step, given_parent(), attributes=kept)
        _step = _OpenStep(tracer, span)
        _log_ids(span)
        try:
            with _ended(span):
                yield
        finally:
            _step = None
            set_log_context(trace_id=None, span_id=None)


@contextmanager
def pipeline_span(run_id: str, name: str) -> Iterator[None]:
    """Trace the block as the whole run, above the spans of the steps that it starts as processes.

    On a cluster nobody sees a run from start to end: there, the steps' spans stand side by side in their trace.
    """
    if tracing_endpoint() is None:
        yield
        return
    from components.shared.telemetry.span_export import given_parent, open_tracer

    before = os.environ.get(_PARENT_VARIABLE)
    with open_tracer(run_id) as tracer:
        attributes = {"kfp.run_id": run_id, "version.deepsynth-pipelines": tool_version()}
        span = tracer.start_span(name, given_parent(), attributes=attributes)
        os.environ[_PARENT_VARIABLE] = _traceparent(span)
        try:
            with _ended(span):
                yield
        finally:
            del os.environ[_PARENT_VARIABLE]
            if before is not None:
                os.environ[_PARENT_VARIABLE] = before


@contextmanager
def span(name: str, **attributes: Attribute) -> Iterator[None]:
    """Trace the block as a phase of the step."""
    global _innermost
    opened = open_span(name, **attributes)
    if opened is None or _step is None:
        yield
        return
    outer, _innermost = _innermost, opened
    _log_ids(opened)
    try:
        with _ended(opened):
            yield
    finally:
        _innermost = outer
        _log_ids(outer or _step.span)


def open_span(name: str, **attributes: Attribute) -> Any | None:
    """Start a phase's span, for ``close_span``; None where nothing is traced."""
    if _step is None:
        return None
    from opentelemetry.trace import set_span_in_context

    return _step.tracer.start_span(name, set_span_in_context(_innermost or _step.span), attributes=attributes)


def close_span(opened: Any | None, error: BaseException | None = None, **attributes: Attribute | None) -> None:
    """End what ``open_span`` started."""
    if opened is None:
        return
    opened.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if error is not None and not isinstance(error, GeneratorExit):
        _note_error(opened, error)
    opened.end()


def annotate_step(attributes: Mapping[str, Attribute | None]) -> None:
    """Set attributes of the step's span, ``deepsynth.`` before their names: digests, counts, figures."""
    if _step is not None:
        known = {f"deepsynth.{name}": value for name, value in attributes.items() if value is not None}
        _step.span.set_attributes(known)


def below_this_span() -> dict[str, str]:
    """Return the environment variable that puts a child process's spans below the innermost one open now."""
    return {} if _step is None else {_PARENT_VARIABLE: _traceparent(_innermost or _step.span)}


@contextmanager
def _ended(opened: Any) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _note_error(opened, error)
        raise
    finally:
        opened.end()


def _note_error(opened: Any, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    opened.record_exception(error)
    opened.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")


def _traceparent(opened: Any) -> str:
    context = opened.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _log_ids(opened: Any) -> None:
    context = opened.get_span_context()
    set_log_context(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")
