"""One model's running batch: waiting pages are prepared in threads, enter, are decoded, and leave."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from components.serve.batching.page_job import PageJob, Phase
from components.serve.engines.answers import Answer, page_reading
from components.serve.engines.loaded_models import LoadedModel
from components.serve.engines.running_rows import RunningRows
from components.serve.engines.whole_answers import WholeAnswers
from components.serve.observability.batch_spans import BatchSpans
from components.serve.observability.meter import Meter
from components.shared.errors import first_line
from components.shared.reading.graphed_decoding import RecordingError, what_asks_the_host
from components.shared.reading.transcriber import PreparedPages

logger = logging.getLogger(__name__)

_STEPS_AT_ONCE_ON_A_GPU = 8  # the host waits for the device once per call; a finished page runs 7 idle steps at most

_BEFORE_DECODING = ("queue", "prepare", "prefill")


@dataclass
class _Group:
    """Pages that were taken from the queue together; their tensors, and when these were there (monotonic time)."""

    jobs: list[PageJob]
    prepared: "Future[tuple[PreparedPages, float]]"


class Lane:
    """The pages of one version.

    Args:
        loaded: the version's model.
        most_rows: pages that are decoded at once.
        pool: prepares pictures and prompts.
        meter: counts and times.
    """

    def __init__(self, loaded: LoadedModel, most_rows: int, pool: ThreadPoolExecutor, meter: Meter) -> None:
        self._loaded, self._most_rows, self._pool, self._meter = loaded, most_rows, pool, meter
        self._rows = _rows_of(loaded, most_rows)
        self._answers: list[Answer] = []
        self._groups: list[_Group] = []
        self._spans = BatchSpans(loaded.name)

    def pages(self) -> int:
        """Return how many pages are prepared or decoded."""
        return len(self._answers) + sum(len(group.jobs) for group in self._groups)

    @property
    def room(self) -> int:
        """How many pages may be taken from the queue: a batch is decoded while the next is prepared."""
        return 2 * self._most_rows - self.pages()

    def preparing(self) -> list["Future[tuple[PreparedPages, float]]"]:
        """Return the groups that are being prepared."""
        return [group.prepared for group in self._groups]

    def take(self, jobs: list[PageJob]) -> None:
        """Begin to prepare pages: as many groups as threads, so that the first pages need not wait for the last."""
        for start in range(0, len(jobs), self._most_rows):
            group = jobs[start : start + self._most_rows]
            self._groups.append(_Group(group, self._pool.submit(self._prepared, group)))

    def turn(self, activate: Callable[[], None]) -> bool:
        """Let prepared pages enter, and decode some tokens; return whether there was anything to do."""
        entered = False
        while self._groups and self._groups[0].prepared.done() and len(self._groups[0].jobs) <= self._rows.free:
            activate()
            self._enter(self._groups.pop(0))
            entered = True
        if not self._answers:
            return entered
        self._meter.batch(len(self._answers))
        self._spans.begin(answer.job for answer in self._answers)
        activate()
        try:
            steps = self._rows.step()
        except Exception as error:
            requests = sorted({answer.job.request_id for answer in self._answers})
            logger.error("%s: a step failed: %s", self._loaded.name, type(error).__name__, extra={"requests": requests})
            self.fail(error)
            self._rows = _rows_of(self._loaded, self._most_rows)
            raise
        written = sum(answer.extend(tokens) for answer, tokens in zip(self._answers, steps, strict=True))
        self._spans.step(written)
        self._meter.wrote(self._loaded.name, written)
        self._let_finished_leave()
        return True

    def fail(self, error: Exception) -> None:
        """Fail every page of this lane."""
        jobs = [job for group in self._groups for job in group.jobs] + [answer.job for answer in self._answers]
        self._groups, self._answers = [], []
        self._spans.end()
        for job in jobs:
            job.fail(error)

    def _enter(self, group: _Group) -> None:
        jobs = [job for job in group.jobs if job.is_wanted()]
        if len(jobs) < len(group.jobs):
            if jobs:
                self._again(jobs)
            return
        started = time.monotonic()
        try:
            prepared, since = group.prepared.result()
            inputs = prepared.inputs.to(self._loaded.bare.device)
            longest = max(job.max_new_tokens for job in jobs)
            try:
                firsts = self._rows.enter(inputs, longest)
            except RecordingError as error:
                if len(self._rows) or isinstance(self._rows, WholeAnswers):
                    raise
                logger.warning("%s: pages are read in groups, not continuously: %s", self._loaded.name, error)
                self._rows = _groups_of(self._loaded, self._most_rows)
                firsts = self._rows.enter(inputs, longest)
        except Exception as error:
            self._failed_to_enter(jobs, error)
            return
        prefilled = time.monotonic()
        self._spans.end()
        self._meter.wrote(self._loaded.name, len(firsts))
        for job, first in zip(jobs, firsts, strict=True):
            phases = _phases(job, since - prepared.seconds, since, started, prefilled)
            job.phases.extend(phases)
            seconds = {name: sum(p.ended - p.began for p in phases if p.name == name) for name in _BEFORE_DECODING}
            answer = Answer(job, self._loaded.transcriber, inputs["input_ids"].shape[1], seconds, prefilled)
            answer.extend([first])
            self._answers.append(answer)
        self._let_finished_leave()

    def _failed_to_enter(self, jobs: list[PageJob], error: Exception) -> None:
        """Read the pages one by one, so that one that fails does not fail the others."""
        if len(jobs) == 1:
            jobs[0].fail(error)
            return
        logger.warning("%d pages cannot be read together, so each is read alone: %s", len(jobs), first_line(error))
        for job in reversed(jobs):
            self._again([job])

    def _again(self, jobs: list[PageJob]) -> None:
        self._groups.insert(0, _Group(jobs, self._pool.submit(self._prepared, jobs)))

    def _prepared(self, jobs: list[PageJob]) -> tuple[PreparedPages, float]:
        return self._loaded.transcriber.prepare(jobs), time.monotonic()

    def _let_finished_leave(self) -> None:
        for row in reversed(range(len(self._answers))):  # the last row fills the gap, and it was looked at before
            answer = self._answers[row]
            if not answer.finished and answer.job.is_wanted():
                continue
            self._rows.leave(row)
            self._spans.end()
            last = self._answers.pop()
            if row < len(self._answers):
                self._answers[row] = last
            if answer.finished:
                reading = page_reading(answer, self._loaded.name)
                self._meter.page(reading)
                answer.job.finish(reading)


def _phases(job: PageJob, prepared_from: float, prepared: float, entered: float, prefilled: float) -> list[Phase]:
    """Return what was done with a page before it is decoded; it waits twice: to be prepared, and for a place."""
    moments = (job.arrived, prepared_from, prepared, entered, prefilled)
    names = ("queue", "prepare", "queue", "prefill")
    return [Phase(name, began, ended) for name, began, ended in zip(names, moments, moments[1:], strict=False)]


def _rows_of(loaded: LoadedModel, most_rows: int) -> RunningRows | WholeAnswers:
    model = loaded.bare
    text_config = model.config.get_text_config(decoder=True)
    shares_steps = (
        getattr(model, "_can_compile_fullgraph", False)
        and text_config._attn_implementation == "sdpa"
        and not getattr(text_config, "sliding_window", None)
    )
    if not shares_steps:
        return _groups_of(loaded, most_rows)
    on_gpu = model.device.type == "cuda"
    return RunningRows(
        model,
        most_rows,
        steps_at_once=_STEPS_AT_ONCE_ON_A_GPU if on_gpu else 1,
        fixed_width=on_gpu and what_asks_the_host(model) is None,
        no_repeat=loaded.no_repeat,
    )


def _groups_of(loaded: LoadedModel, most_rows: int) -> WholeAnswers:
    ends = (loaded.transcriber.end_tokens, loaded.transcriber.pad_token)
    return WholeAnswers(loaded.bare, most_rows, *ends, loaded.no_repeat)
