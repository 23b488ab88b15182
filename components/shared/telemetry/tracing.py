"""OpenTelemetry spans of a step: one for the step, and one below it for each phase.

They are sent to ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` (OTLP over HTTP). Where
neither is set, OpenTelemetry is not imported. All steps of a pipeline run are in one trace: that of ``TRACEPARENT`` if
it is set, as ``deepsynth run`` does, otherwise one whose id is computed from ``KFP_RUN_ID``.
"""

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from components.shared.errors import without_passwords
from components.shared.telemetry.trace_target import tracing_endpoint
from components.shared.versions import software_versions, tool_version

_RUN_ID_VARIABLE = "KFP_RUN_ID"
_STEP_SPAN = "deepsynth.step_span"
"""key of the step's span in OpenTelemetry's context"""
_TRACER = "deepsynth.tracer"
"""key of the tracer in OpenTelemetry's context: the provider is not the global one"""

Attribute = str | int | float | bool


@contextmanager
def step_span(step: str, part: str | None = None) -> Iterator[None]:
    """Trace the block as a step of the pipeline run; an error is recorded in the span and propagates."""
    if tracing_endpoint() is None or _in_context(_STEP_SPAN) is not None:
        yield
        return
    from opentelemetry import context

    from components.shared.telemetry.span_export import given_parent, open_tracer

    run_id = os.environ.get(_RUN_ID_VARIABLE)
    attributes = {f"version.{name}": version for name, version in software_versions().items()}
    attributes |= {"deepsynth.step": step, "kfp.run_id": run_id or "", "deepsynth.part": part or ""}
    kept = {name: value for name, value in attributes.items() if value}
    name = f"{step}: {part}" if part else step
    with open_tracer(run_id) as tracer, _current(tracer, name, kept, given_parent()) as opened:
        token = context.attach(context.set_value(_TRACER, tracer, context.set_value(_STEP_SPAN, opened)))
        try:
            yield
        finally:
            context.detach(token)


@contextmanager
def pipeline_span(run_id: str, name: str) -> Iterator[None]:
    """Trace the block as the whole run, above the spans of the steps, which run in processes of their own.

    On a cluster no process sees a run from start to end, so there the steps' spans stand side by side in one trace.
    """
    if tracing_endpoint() is None:
        yield
        return
    from components.shared.telemetry.span_export import given_parent, open_tracer

    attributes = {"kfp.run_id": run_id, "version.deepsynth-pipelines": tool_version()}
    with open_tracer(run_id) as tracer, _current(tracer, name, attributes, given_parent()):
        before = {name: os.environ.get(name) for name in ("TRACEPARENT", "TRACESTATE")}
        os.environ.update(_injected())
        try:
            yield
        finally:
            for variable, value in before.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value


@contextmanager
def span(name: str, **attributes: Attribute) -> Iterator[None]:
    """Trace the block as a phase of the step."""
    tracer = _in_context(_TRACER)
    if tracer is None:
        yield
        return
    with _current(tracer, name, attributes):
        yield


def open_span(name: str, **attributes: Attribute) -> Any | None:
    """Start a phase's span without making it the current one; end it with ``close_span``. None where tracing is off.

    For work that starts and ends in different frames, such as a generator: OpenTelemetry's context belongs to a frame.
    """
    tracer = _in_context(_TRACER)
    return None if tracer is None else tracer.start_span(name, attributes=attributes)


def close_span(opened: Any | None, error: BaseException | None = None, **attributes: Attribute | None) -> None:
    """End a span that ``open_span`` started."""
    if opened is None:
        return
    opened.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if error is not None and not isinstance(error, GeneratorExit):
        _record_error(opened, error)
    opened.end()


def annotate_step(attributes: Mapping[str, Attribute | None]) -> None:
    """Set attributes of the step's span (digests, counts, figures) with the prefix ``deepsynth.``."""
    step = _in_context(_STEP_SPAN)
    if step is not None:
        known = {f"deepsynth.{name}": value for name, value in attributes.items() if value is not None}
        step.set_attributes(known)


def current_tracer() -> Any | None:
    """Return the tracer of this program, for spans that ``span`` cannot express; None where tracing is off."""
    return _in_context(_TRACER)


def below_this_span() -> dict[str, str]:
    """Return the environment variables that put a child process's spans below the current span."""
    return {} if _in_context(_TRACER) is None else _injected()


def _in_context(key: str) -> Any:
    if tracing_endpoint() is None:
        return None
    from opentelemetry import context

    return context.get_value(key)


@contextmanager
def _current(tracer: Any, name: str, attributes: Mapping[str, Attribute], parent: Any = None) -> Iterator[Any]:
    """Open a span and make it the current one.

    OpenTelemetry would record an error itself, but with the passwords in its message and without SystemExit.
    """
    options = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(name, context=parent, attributes=attributes, **options) as opened:
        try:
            yield opened
        except BaseException as error:
            _record_error(opened, error)
            raise


def _record_error(opened: Any, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    texts = {"exception.message": str(error), "exception.stacktrace": "".join(traceback.format_exception(error))}
    opened.record_exception(error, {name: without_passwords(text) for name, text in texts.items()})
    opened.set_status(StatusCode.ERROR, without_passwords(f"{type(error).__name__}: {error}"))


def _injected() -> dict[str, str]:
    """Return the current span as W3C Trace Context in environment variables, TRACEPARENT and TRACESTATE."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name.upper(): value for name, value in carrier.items()}
