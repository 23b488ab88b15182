"""How far running steps are: from the JSON log of their pods, or from MLflow's metrics where no pod can be read."""

import datetime
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from components.shared.telemetry.progress import duration_text
from pipelines.following.run_sources import RunSources
from pipelines.following.step_log import json_record
from pipelines.following.workflow_nodes import step_states

_SECONDS_BETWEEN_LINES = 15.0
_TAIL_LINES = 60
# The train step logs this when it starts from a checkpoint.
_RESUMED = re.compile(r"training \D*after step (\d+), from ")


@dataclass(frozen=True)
class WorkDone:
    """Units done of one piece of work at one moment."""

    description: str
    done: int
    total: int | None
    moment: float
    """seconds since 1970"""
    note: str = ""

    def text(self, earlier: "WorkDone | None") -> str:
        """Return one line, with the time left by the rate since ``earlier``."""
        of = f" of {self.total}" if self.total else ""
        note = f", {self.note}" if self.note else ""
        left = ""
        if self.total and earlier and earlier.done < self.done and earlier.moment < self.moment:
            seconds = (self.total - self.done) * (self.moment - earlier.moment) / (self.done - earlier.done)
            left = f", about {duration_text(seconds)} left"
        return f"{self.description}: {self.done}{of}{note}{left}"


class RunningSteps:
    """Yields a line of progress for each running step, at most one every 15 s, and where a training resumed."""

    def __init__(self, sources: RunSources, seconds_between_lines: float = _SECONDS_BETWEEN_LINES) -> None:
        self._sources = sources
        self._seconds = seconds_between_lines
        self._next = 0.0
        self._first: dict[tuple[str, str], WorkDone] = {}
        self._read: set[str] = set()

    def news(self, run: Any) -> Iterator[tuple[str, str]]:
        """Yield (step, text) for what is known of each running step."""
        running = [step.name for step in step_states(run) if step.running]
        if not running or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._seconds
        pods = [pod for pod in self._sources.step_pods() if pod.phase == "Running"]
        for name in running:
            own = [pod for pod in pods if pod.step == name]
            for pod in own:
                lines = self._sources.log_of_pod(pod.name, None if pod.name not in self._read else _TAIL_LINES) or []
                self._read.add(pod.name)
                yield from self._told(name, pod.name, resumed_after(lines), work_in(lines))
            if not own:
                tracked = self._sources.tracked_steps(name)
                if tracked:
                    yield from self._told(name, "", tracked.resumed_after, tracked_work(tracked))

    def _told(self, step: str, pod: str, resumed: int | None, work: WorkDone | None) -> Iterator[tuple[str, str]]:
        if resumed:
            yield step, f"the training resumed after step {resumed}"
        if work and work.done:
            first = self._first.setdefault((f"{step} {pod}", work.description), work)
            yield step, work.text(first).removeprefix(f"{step}: ")


def work_in(lines: Iterable[str]) -> WorkDone | None:
    """Return the last progress that ``components.shared.telemetry.progress`` logged as JSON."""
    found = None
    for record in filter(None, map(json_record, lines)):
        if isinstance(record.get("done"), int) and "time" in record:
            description, _, rest = str(record["message"]).partition(": ")
            note = re.search(r"\d s, (.+)$", rest)
            moment = datetime.datetime.fromisoformat(str(record["time"])).timestamp()
            found = WorkDone(description, record["done"], record.get("total"), moment, note[1] if note else "")
    return found


def resumed_after(lines: Iterable[str]) -> int | None:
    """Return after which step a training went on from a checkpoint; None if it began at its first step."""
    found = None
    for record in filter(None, map(json_record, lines)):
        match = _RESUMED.match(str(record["message"]))
        found = int(match[1]) if match else found
    return found


def tracked_work(tracked: Any) -> WorkDone:
    """Return a training's progress by MLflow's metric ``loss``."""
    return WorkDone("train", tracked.step, tracked.total, tracked.moment, f"loss {tracked.loss:.4f}")
