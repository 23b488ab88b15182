"""Events that a running step sends to the process that displays the run: JSON lines in the progress bar's file.

A line with ``event`` is a step's start, end or error; all others report progress.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from components.shared.errors import without_passwords
from components.shared.telemetry.progress import PROGRESS_FILE_VARIABLE


def tell(event: str, step: str, **details: Any) -> None:
    """Append an event if a process displays the run; on a cluster none does: the orchestrator shows the tasks."""
    if path := os.environ.get(PROGRESS_FILE_VARIABLE):
        said = {name: without_passwords(value) if isinstance(value, str) else value for name, value in details.items()}
        line = {"event": event, "step": step, "time": time.time(), **said}
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def task_title(event: dict[str, Any]) -> str:
    """Return the name of an event's task: the step, and its part if the step has several tasks."""
    part = event.get("part")
    return f"{event['step']} ({part})" if part else str(event["step"])


class EventReader:
    """Reads the lines that were appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[dict[str, Any]]:
        """Return the complete new lines; an incomplete last line is left for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]
