"""Progress of long work: a bar in a terminal, log lines otherwise, or lines in a file for the process that watches.

``deepsynth run`` captures the output of each step's process: it names a file in ``DEEPSYNTH_PROGRESS_FILE``, and draws
the bar from the JSON lines that the step appends to it.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from components.shared.memory_limits import memory_peaks
from components.shared.telemetry.logs import logs_are_json
from components.shared.telemetry.tracing import close_span, open_span

logger = logging.getLogger(__name__)

PROGRESS_FILE_VARIABLE = "DEEPSYNTH_PROGRESS_FILE"
SECONDS_VARIABLE = "DEEPSYNTH_PROGRESS_SECONDS"
"""seconds between two log lines of one piece of work"""
_SECONDS_BETWEEN_LOG_LINES = 15.0
_SECONDS_BETWEEN_LINES = 0.2
_SECONDS_BETWEEN_UPDATES = 0.1

T = TypeVar("T")


def duration_text(seconds: float) -> str:
    """Return a duration in words.

    >>> duration_text(42), duration_text(600), duration_text(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def bars_are_seen() -> bool:
    """Return whether standard error is a terminal and logs are text."""
    return not logs_are_json() and Console(stderr=True).is_terminal


def progress_display() -> Progress:
    """Return the progress bar on standard error; a single step and a whole pipeline use the same layout."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )


class ProgressReport:
    """Counts the finished units of one piece of work; use it as a context manager.

    Args:
        description: the work, e.g. ``"render pages"``.
        total: the number of units; None if unknown.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.note = ""
        self._file = os.environ.get(PROGRESS_FILE_VARIABLE)
        self._last_line = self._last_update = 0.0
        self._display = None if self._file or not bars_are_seen() else progress_display()
        self._log = None if self._file or self._display else ProgressLog()

    def __enter__(self) -> "ProgressReport":
        if self._display:
            self._display.start()
            self._task = self._display.add_task(self.description, total=self.total, note="")
        self._span = open_span(self.description)
        self._append_line(force=True)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._append_line(force=True)
        close_span(self._span, error, done=self.done, total=self.total)
        if self._display:
            self._display.update(self._task, completed=self.done, note=self.note)
            self._display.stop()
        if self._log and error is None:
            self._log.say(self.description, self.done, self.total, self.note, finished=True)

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count ``units`` as done; ``note`` is a short text beside the bar, e.g. ``"loss 0.41"``."""
        self.done += units
        self.note = self.note if note is None else note
        # At most ten updates a second: one costs as much as a small unit of work.
        now = time.monotonic()
        if now - self._last_update >= _SECONDS_BETWEEN_UPDATES:
            self._last_update = now
            if self._display:
                self._display.update(self._task, completed=self.done, note=self.note)
            if self._log:
                self._log.say(self.description, self.done, self.total, self.note)
        self._append_line()

    def _append_line(self, force: bool = False) -> None:
        now = time.monotonic()
        if not self._file or (not force and now - self._last_line < _SECONDS_BETWEEN_LINES):
            return
        self._last_line = now
        line = {"description": self.description, "done": self.done, "total": self.total, "note": self.note}
        with Path(self._file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


class ProgressLog:
    """Logs the progress of one piece of work: a line every 15 s (``DEEPSYNTH_PROGRESS_SECONDS``) and one at the end.

    Args:
        log: a function with the parameters of ``logging.Logger.info``.
    """

    def __init__(self, log: Callable[..., None] = logger.info) -> None:
        self._log = log
        self._started = self._last = time.monotonic()
        self._seconds = float(os.environ.get(SECONDS_VARIABLE) or _SECONDS_BETWEEN_LOG_LINES)

    def say(self, description: str, done: int, total: int | None, note: str, finished: bool = False) -> None:
        """Log the progress, unless the last line was written less than 15 s ago."""
        now = time.monotonic()
        if not finished and now - self._last < self._seconds:
            return
        self._last = now
        seconds = now - self._started
        rate = done / seconds if seconds else 0.0
        self._log(
            "%s: %d%s%s, %.1f/s, %.0f s%s",
            description,
            done,
            "" if total is None else f" of {total}",
            " done" if finished else "",
            rate,
            seconds,
            f", {note}" if note else "",
            extra={"done": done, "total": total, "rate": round(rate, 3), "finished": finished, **memory_peaks()},
        )


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items``; each counts as done when the next one is requested."""
    with ProgressReport(description, total) as report:
        for item in items:
            yield item
            report.advance()
