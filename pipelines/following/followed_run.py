"""Follow a run: each new state of a step, what a step waits for, and each attempt after a failed one."""

import datetime
import time
from collections.abc import Callable
from typing import Any

from pipelines.cluster.kfp_api import KfpApi, LostContactError
from pipelines.following.diagnosis import Diagnosis
from pipelines.following.progress import RunningSteps
from pipelines.following.workflow_nodes import step_states

_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_SECONDS_WITHOUT_CONTACT = 600


def follow_run(
    api: KfpApi,
    run_id: str,
    diagnosis: Diagnosis,
    progress: RunningSteps,
    say: Callable[[str], None],
    seconds_between_looks: float,
) -> Any:
    """Poll the run until it ends, ``say`` what is new, and return the ended run.

    If the server does not answer, keep asking for ten minutes.

    Raises:
        UserError: no such run, the login expired, or the server stays away.
    """
    news = _News(diagnosis, progress, say)
    contact, lost = time.monotonic(), False
    while True:
        try:
            run = api.call("runs", "run_service_get_run", run_id=run_id)
        except LostContactError as error:
            if time.monotonic() - contact > _SECONDS_WITHOUT_CONTACT:
                raise
            if not lost:
                say(f"{error}; asking again, the run goes on meanwhile")
            lost = True
            time.sleep(seconds_between_looks)
            continue
        contact, lost = time.monotonic(), False
        news.tell(run)
        if run.state in _ENDED:
            return run
        time.sleep(seconds_between_looks)


class _News:
    """Says each thing once: a step's state, and texts about it, when they change."""

    def __init__(self, diagnosis: Diagnosis, progress: RunningSteps, say: Callable[[str], None]) -> None:
        self._diagnosis = diagnosis
        self._progress = progress
        self._say = say
        self._states: dict[str, str] = {}
        self._texts: set[tuple[str, str]] = set()

    def tell(self, run: Any) -> None:
        for step in step_states(run):
            if self._states.get(step.name) != str(step):
                self._states[step.name] = str(step)
                self._say(str(step))
        self._tell_once(list(self._diagnosis.attempts(run)))
        if run.state not in _ENDED:
            self._tell_once(list(self._diagnosis.waiting(run, datetime.datetime.now(datetime.UTC))))
            self._tell_once(list(self._progress.news(run)))

    def _tell_once(self, texts: list[tuple[str, str]]) -> None:
        for step, text in texts:
            if (step, text) not in self._texts:
                self._texts.add((step, text))
                self._say(f"{step}: {text}")
