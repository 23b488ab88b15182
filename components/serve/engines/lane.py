"""One model's running batch: waiting pages are prepared in threads, enter, are decoded, and leave."""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from components.serve.batching.page_job import PageJob, Phase
from components.serve.engines.answers import Answer
from components.serve.engines.entry_moment import EntryMoment
from components.serve.engines.loaded_models import LoadedModel
from components.serve.engines.running_rows import RunningRows, Written
from components.serve.engines.threads import EngineThreads
from components.serve.engines.whole_answers import Read, WholeAnswers
from components.serve.observability.batch_spans import BatchSpans
from components.serve.observability.meter import Meter
from components.shared.errors import first_line
from components.shared.programs.machine_failures import causes_of, ran_out_of_device_memory
from components.shared.reading.graphed_decoding import RecordingError, what_asks_the_host
from components.shared.reading.joined_pages import joined, kind_of
from components.shared.reading.transcriber import PreparedPages

logger = logging.getLogger(__name__)

# On a GPU so many steps are launched at once, and the next ones before the tokens of these are looked at: the device
# never waits for the host. A page that has ended runs 7 idle steps at most.
_STEPS_AT_ONCE_ON_A_GPU = 4

_BEFORE_DECODING = ("queue", "prepare", "prefill")


@dataclass(frozen=True)
class _Waiting:
    """A page that was taken from the queue: its tensors to come, and when these are there (monotonic time).

    Attributes:
        taking: pages with the same number were taken together.
        alone: it shall enter alone, because its batch failed.
    """

    job: PageJob
    prepared: "Future[tuple[PreparedPages, float]]"
    taking: int
    alone: bool = False


@dataclass(frozen=True)
class _Launched:
    """Steps that run: the answers of their rows, and the tokens to come."""

    answers: list[Answer]
    written: Written | Read


class Lane:
    """The pages of one version.

    Args:
        loaded: the version's model.
        most_rows: pages that are decoded at once.
        threads: prepare pages and build answers.
        meter: counts and times.
    """

    def __init__(self, loaded: LoadedModel, most_rows: int, threads: EngineThreads, meter: Meter) -> None:
        self._loaded, self._most_rows, self._threads, self._meter = loaded, most_rows, threads, meter
        self._rows = _rows_of(loaded, most_rows)
        self._answers: list[Answer] = []
        self._waiting: list[_Waiting] = []
        self._takings = 0
        self._launched: deque[_Launched] = deque()
        self._moment = EntryMoment()
        self._spans = BatchSpans(loaded.name)

    def pages(self) -> int:
        """Return how many pages are prepared or decoded."""
        return len(self._answers) + len(self._waiting)

    @property
    def room(self) -> int:
        """How many pages may be taken from the queue: a batch is decoded while the next is prepared."""
        return 2 * self._most_rows - self.pages()

    def preparing(self) -> list["Future[tuple[PreparedPages, float]]"]:
        """Return the pages that are being prepared."""
        return [page.prepared for page in self._waiting if not page.prepared.done()]

    def take(self, jobs: list[PageJob]) -> None:
        """Begin to prepare pages."""
        self._takings += 1
        prepare = self._loaded.transcriber.prepare
        self._waiting += [_Waiting(job, self._threads.prepared(prepare, job), self._takings) for job in jobs]

    def turn(self, activate: Callable[[], None]) -> bool:
        """Let prepared pages enter, and decode some tokens; return whether there was anything to do."""
        entering = self._entering()
        if entering:
            activate()
            with self._meter.engine_time("enter"):
                self._enter(entering)
        if not self._answers:
            self._launched.clear()  # the steps of pages that have all left
            return bool(entering)
        activate()
        try:
            self._decode()
        except Exception as error:
            requests = sorted({answer.job.request_id for answer in self._answers})
            logger.error("%s: a step failed: %s", self._loaded.name, type(error).__name__, extra={"requests": requests})
            self.fail(error)
            self._rows = _rows_of(self._loaded, self._most_rows)
            raise
        return True

    def fail(self, error: Exception) -> None:
        """Fail every page of this lane."""
        jobs = [page.job for page in self._waiting] + [answer.job for answer in self._answers]
        self._waiting, self._answers = [], []
        self._launched.clear()
        self._spans.end()
        for job in jobs:
            job.fail(error)

    def _decode(self) -> None:
        """Launch steps, and take the tokens of those that were launched before."""
        self._meter.batch(len(self._answers))
        with self._meter.engine_time("launch"):
            self._launched.append(_Launched(list(self._answers), self._rows.launch()))
        while len(self._launched) > self._rows.looks_ahead:
            self._take_tokens(self._launched.popleft())

    def _take_tokens(self, before: _Launched) -> None:
        with self._meter.engine_time("wait"):
            steps = before.written.steps()
        with self._meter.engine_time("answer"):
            running = set(map(id, self._answers))
            pairs = [pair for pair in zip(before.answers, steps, strict=True) if id(pair[0]) in running]
            if pairs:
                self._spans.begin(answer.job for answer in self._answers)
            written = sum(answer.extend(tokens) for answer, tokens in pairs)
            self._spans.step(written)
            self._meter.wrote(self._loaded.name, written)
            self._let_finished_leave()

    def _entering(self) -> list[_Waiting]:
        """Return the pages that enter now, in the order in which they came; those given up are dropped."""
        self._waiting = [page for page in self._waiting if page.job.is_wanted()]
        places = self._waiting[: self._rows.free]
        if places and places[0].alone:
            places = places[:1]
        together = [page for page in places if page.taking == places[0].taking]
        if not self._answers and not all(page.prepared.done() for page in together):
            return []  # those that came together begin together
        ready = [page for page in places if page.prepared.done() and page.alone == places[0].alone]
        if not self._moment.has_come(len(ready), len(self._answers), time.monotonic()):
            return []
        self._waiting = [page for page in self._waiting if page not in ready]
        return ready

    def _enter(self, pages: list[_Waiting]) -> None:
        """Let pages enter, those of one kind together; raise if the device can no longer be used."""
        try:
            kinds: dict[object, list[_Waiting]] = {}
            for page in pages:
                try:
                    kinds.setdefault(kind_of(page.prepared.result()[0].inputs), []).append(page)
                except Exception as error:
                    self._failed_to_enter([page], error)
            for alike in kinds.values():
                try:
                    self._enter_together(alike)
                except Exception as error:
                    self._failed_to_enter(alike, error)
        except Exception as error:
            for page in pages:
                page.job.fail(error)
            raise
        self._let_finished_leave()

    def _enter_together(self, pages: list[_Waiting]) -> None:
        started = time.monotonic()
        prepared = [page.prepared.result() for page in pages]
        device, longest = self._loaded.bare.device, max(page.job.max_new_tokens for page in pages)
        lengths = [int(one.inputs["attention_mask"].sum()) for one, _ in prepared]
        on_device = [one.inputs.to(device, non_blocking=True) for one, _ in prepared]
        inputs = joined(on_device, self._loaded.transcriber.pad_token)
        try:
            firsts = self._rows.enter(inputs, longest)
        except RecordingError as error:
            if len(self._rows) or isinstance(self._rows, WholeAnswers):
                raise
            logger.warning("%s: pages are read in groups, not continuously: %s", self._loaded.name, error)
            self._rows = _groups_of(self._loaded, self._most_rows)
            firsts = self._rows.enter(inputs, longest)
        prefilled = time.monotonic()
        self._moment.entered(len(pages), prefilled - started)
        self._spans.end()
        self._meter.wrote(self._loaded.name, len(firsts))
        for page, (one, since), tokens, first in zip(pages, prepared, lengths, firsts, strict=True):
            phases = _phases(page.job, since - one.seconds, since, started, prefilled)
            page.job.phases.extend(phases)
            seconds = {name: sum(p.ended - p.began for p in phases if p.name == name) for name in _BEFORE_DECODING}
            answer = Answer(page.job, self._loaded.transcriber, tokens, seconds, prefilled, self._threads.send)
            answer.extend([first])
            self._answers.append(answer)

    def _failed_to_enter(self, pages: list[_Waiting], error: Exception) -> None:
        """Read the pages one by one, so that one that fails does not fail the others."""
        if broke_the_device(error):
            raise error
        if len(pages) == 1:
            pages[0].job.fail(error)
            return
        logger.warning("%d pages cannot be read together, so each is read alone: %s", len(pages), first_line(error))
        self._waiting = [replace(page, alone=True) for page in pages] + self._waiting

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
                self._threads.answer(answer, self._loaded.name)


def broke_the_device(error: Exception) -> bool:
    """Return whether the device can no longer be used, as after an illegal address."""
    return any(
        isinstance(cause, torch.AcceleratorError) and not ran_out_of_device_memory(cause) for cause in causes_of(error)
    )


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
        no_repeat=loaded.reading.no_repeat,
    )


def _groups_of(loaded: LoadedModel, most_rows: int) -> WholeAnswers:
    ends = (loaded.transcriber.end_tokens, loaded.transcriber.pad_token)
    return WholeAnswers(loaded.bare, most_rows, *ends, loaded.reading.no_repeat)
