"""A page on its way through the service, and what was read on it."""

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from components.shared.reading.line_readings import LineReading


@dataclass(frozen=True)
class PageReading:
    """What a model wrote for a page.

    Attributes:
        model: the version that read the page.
        truncated: the answer reached its longest length without an end token.
        loop: the text ends in a repetition (``components/shared/scoring/repetition.py``).
        prompt_tokens, tokens: of the prompt (picture included), and of the answer (end token included).
        mean_logprob, min_logprob: over the answer's tokens, natural logarithm; both 0.0 mean certainty.
        seconds: the time of each phase: queue (all waiting: for preparation, and for a place in the batch), prepare,
            prefill, decode; their sum is the page's time.
    """

    model: str
    text: str
    truncated: bool
    loop: bool
    prompt_tokens: int
    tokens: int
    mean_logprob: float
    min_logprob: float
    lines: tuple[LineReading, ...]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Phase:
    """What was done with a page from ``began`` to ``ended`` (``time.monotonic()``)."""

    name: str
    began: float
    ended: float


class RequestTimeoutError(Exception):
    """The request's time is over; nobody waits for its pages any more."""


@dataclass(eq=False)
class PageJob:
    """A page that waits, is read, or is done. ``result`` is cancelled by whoever no longer waits for it.

    Attributes:
        model: the version that was chosen when the request came; it does not change.
        instruction: the prompt's text; None: the family's own.
        client: for fairness between clients.
        deadline: ``time.monotonic()`` after which the page is given up.
        on_text: called in a thread of the engine with each new piece of text; None if nobody follows.
        request_id: for log lines.
        phases: what was done so far, in order.
        span: the page's OpenTelemetry span; None if it is not traced.
    """

    image: Image.Image
    instruction: str | None
    model: str
    client: str
    max_new_tokens: int
    deadline: float
    on_text: Callable[[str], None] | None = None
    result: "Future[PageReading]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    request_id: str = ""
    phases: list[Phase] = field(default_factory=list)
    span: Any | None = None

    def is_wanted(self) -> bool:
        """Return whether somebody still waits; a page whose deadline has passed fails here."""
        if not self.result.done() and time.monotonic() > self.deadline:
            self.fail(RequestTimeoutError("the request's time is over"))
        return not self.result.done()

    def finish(self, reading: PageReading) -> None:
        """Hand over the reading, unless the page was cancelled."""
        try:
            self.result.set_result(reading)
        except InvalidStateError:
            return  # cancelled while the last step ran

    def fail(self, error: Exception) -> None:
        """Hand over the error, unless the page was cancelled."""
        try:
            self.result.set_exception(error)
        except InvalidStateError:
            return  # cancelled at the same moment
