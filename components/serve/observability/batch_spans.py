"""OpenTelemetry spans of a running batch: one for as long as its pages stay the same, however many tokens they write.

Pages of many requests share a batch, so its span is in a trace of its own and linked with the pages' spans, both ways.
"""

from collections.abc import Iterable
from typing import Any

from components.serve.batching.page_job import PageJob
from components.shared.telemetry.tracing import current_tracer


class BatchSpans:
    """The spans of one version's batch, one after another; used by the engine's thread alone.

    Args:
        model: the version.
    """

    def __init__(self, model: str) -> None:
        self._tracer, self._model = current_tracer(), model
        self._span: Any | None = None
        self._begun = False
        self._steps = self._tokens = 0

    def begin(self, jobs: Iterable[PageJob]) -> None:
        """Open a span for a batch of these pages, unless it is open; none if no page in it is traced."""
        if self._tracer is None or self._begun:
            return
        self._begun, self._steps, self._tokens = True, 0, 0
        rows = [job.span for job in jobs]
        pages = [page for page in rows if page is not None and page.is_recording()]
        if not pages:
            return
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        attributes = {"deepsynth.model": self._model, "deepsynth.rows": len(rows)}
        links = [Link(page.get_span_context()) for page in pages]
        self._span = self._tracer.start_span("batch", context=Context(), attributes=attributes, links=links)
        for page in pages:
            page.add_link(self._span.get_span_context())

    def step(self, tokens: int) -> None:
        """Count a step that wrote so many tokens."""
        self._steps += 1
        self._tokens += tokens

    def end(self) -> None:
        """End the span, because pages entered or left."""
        self._begun = False
        if self._span is not None:
            self._span.set_attributes({"deepsynth.steps": self._steps, "deepsynth.tokens": self._tokens})
            self._span.end()
            self._span = None
