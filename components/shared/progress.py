"""Progress of long work: a bar in a terminal, and lines in a file for the process that started this one.

``deepsynth run`` starts each step in a process whose output is captured; it names a file in
``DEEPSYNTH_PROGRESS_FILE`` and draws the bar from the JSON lines that the step appends there.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PROGRESS_FILE_VARIABLE = "DEEPSYNTH_PROGRESS_FILE"
_SECONDS_BETWEEN_LINES = 0.2
_SECONDS_BETWEEN_UPDATES = 0.1

T = TypeVar("T")


def progress_display() -> Progress:
    """Return the bar's layout on standard error, the same for a step alone and for a whole pipeline."""
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
    """Counts done units of one piece of work; use as a context manager.

    Args:
        description: what is done, e.g. ``"render pages"``.
        total: how many units there are; None where that is not known.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.note = ""
        self._file = os.environ.get(PROGRESS_FILE_VARIABLE)
        self._last_line = self._last_update = 0.0
        self._display = None if self._file else progress_display()

    def __enter__(self) -> "ProgressReport":
        if self._display:
            self._display.start()
            self._task = self._display.add_task(self.description, total=self.total, note="")
        self._append_line(force=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._append_line(force=True)
        if self._display:
            self._display.update(self._task, completed=self.done, note=self.note)
            self._display.stop()

    def advance(self, units: int = 1, note: str | None = None) -> None:
        """Count ``units`` as done; ``note`` is a short text beside the bar, e.g. ``"loss 0.41"``."""
        self.done += units
        self.note = self.note if note is None else note
        # Looked at ten times a second and no more: an update costs as much as a small unit of work.
        now = time.monotonic()
        if self._display and now - self._last_update >= _SECONDS_BETWEEN_UPDATES:
            self._last_update = now
            self._display.update(self._task, completed=self.done, note=self.note)
        self._append_line()

    def _append_line(self, force: bool = False) -> None:
        now = time.monotonic()
        if not self._file or (not force and now - self._last_line < _SECONDS_BETWEEN_LINES):
            return
        self._last_line = now
        line = {"description": self.description, "done": self.done, "total": self.total, "note": self.note}
        with Path(self._file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and count each as done when the next one is asked for."""
    with ProgressReport(description, total) as report:
        for item in items:
            yield item
            report.advance()
