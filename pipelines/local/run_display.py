"""Show a running pipeline: bars in a terminal, otherwise one line for each start and end of a step."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from components.shared.telemetry.logs import logs_are_json
from components.shared.telemetry.progress import ProgressLog, bars_are_seen, progress_display
from pipelines.task_side.run_events import task_title

logger = logging.getLogger(__name__)


class RunDisplay:
    """Displays the lines of the run's event file; use as a context manager.

    Args:
        tasks: the number of tasks in the run.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._progress = progress_display() if bars_are_seen() else None
        self._console = self._progress.console if self._progress else Console(stderr=True)
        self._overall: TaskID | None = None
        self._work: TaskID | None = None
        self._work_name = ""
        self._log = ProgressLog(self._log_line)
        self._number = 0
        self._again = False
        self._started = 0.0
        self._warned: set[str] = set()

    def __enter__(self) -> "RunDisplay":
        self._context: AbstractContextManager[Any] = self._progress or nullcontext()
        self._context.__enter__()
        if self._progress:
            self._overall = self._progress.add_task("start", total=self._tasks, note="")
        return self

    def __exit__(self, *error: Any) -> None:
        self._drop_work()
        if self._progress and self._overall is not None:
            self._progress.remove_task(self._overall)
        self._context.__exit__(*error)

    def show(self, line: dict[str, Any]) -> None:
        """Show one event or one progress line."""
        if line.get("event") == "start":
            self._number += not self._again
            self._again = False
            self._started = line["time"]
            self._name_task(task_title(line))
        elif line.get("event") == "killed" and line["again"]:
            self._again = True
            self._drop_work()
            self._say(f"the container was killed ({line['reason']}): it is started again")
        elif line.get("event") == "warning" and line["message"] not in self._warned:
            self._warned.add(line["message"])  # now: at the run's end it may have cost hours
            self._say(f"warning: {line['message']}", level=logging.WARNING)
        elif line.get("event") == "end":
            seconds = line["time"] - self._started
            self._drop_work()
            self._say(f"[{self._number}/{self._tasks}] {task_title(line)} done in {seconds:.1f} s")
        elif "event" not in line and self._progress:
            self._show_work(line)
        elif "event" not in line:
            self._log_work(line)

    def _name_task(self, title: str) -> None:
        if self._progress and self._overall is not None:
            name = f"step {self._number} of {self._tasks}: {title}"
            self._progress.update(self._overall, description=name, completed=self._number - 1)
        else:
            self._say(f"[{self._number}/{self._tasks}] {title} ...")

    def _show_work(self, line: dict[str, Any]) -> None:
        assert self._progress
        if self._work is None or line["description"] != self._work_name:
            self._drop_work()
            self._work_name = line["description"]
            self._work = self._progress.add_task(f"  {self._work_name}", total=line["total"], note="")
        self._progress.update(self._work, completed=line["done"], total=line["total"], note=line["note"])

    def _log_work(self, line: dict[str, Any]) -> None:
        if line["description"] != self._work_name:
            self._work_name = line["description"]
            self._log = ProgressLog(self._log_line)
        self._log.say(line["description"], line["done"], line["total"], line["note"])

    def _log_line(self, text: str, *arguments: Any, extra: dict[str, Any]) -> None:
        self._say(text % arguments, **extra)

    def _drop_work(self) -> None:
        if self._progress and self._work is not None:
            self._progress.remove_task(self._work)
        self._work = None

    def _say(self, text: str, level: int = logging.INFO, **fields: Any) -> None:
        if logs_are_json():
            logger.log(level, "%s", text, extra=fields)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
