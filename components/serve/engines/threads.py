"""Threads beside the engine's: what they do costs the model no time, because it computes meanwhile."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import torch
from transformers import BatchFeature

from components.serve.batching.page_job import PageJob
from components.serve.engines.answers import Answer, page_reading
from components.serve.observability.meter import Meter
from components.shared.reading.transcriber import Page, PreparedPages

logger = logging.getLogger(__name__)

_PREPARING_THREADS = {"cpu": 1, "cuda": 4}


class EngineThreads:
    """Some threads prepare pages, and one builds readings from finished answers; leave the block to end them.

    Args:
        device: of the models.
        meter: counts the pages that were read.
    """

    def __init__(self, device: torch.device, meter: Meter) -> None:
        self._meter, self._on_gpu = meter, device.type == "cuda"
        self._preparing = ThreadPoolExecutor(_PREPARING_THREADS[device.type], thread_name_prefix="prepare")
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def __enter__(self) -> "EngineThreads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._preparing.shutdown(cancel_futures=True)
        self._answering.shutdown()

    def prepared(
        self, prepare: Callable[[Sequence[Page]], PreparedPages], job: PageJob
    ) -> "Future[tuple[PreparedPages, float]]":
        """Begin to prepare a page; the future has its tensors, and when they were there (monotonic time)."""
        return self._preparing.submit(self._prepared, prepare, job)

    def send(self, answer: Answer, tokens: list[int]) -> None:
        """Begin to send the text of an answer's new tokens to who follows it."""
        self._answering.submit(self._sent, answer, tokens)

    def answer(self, answer: Answer, model: str) -> None:
        """Begin to build the reading of a finished answer, and to hand it over."""
        self._answering.submit(self._answered, answer, model)

    def _prepared(
        self, prepare: Callable[[Sequence[Page]], PreparedPages], job: PageJob
    ) -> tuple[PreparedPages, float]:
        if not job.is_wanted():
            raise CancelledError  # its lane has dropped it, or will
        found = prepare([job])
        if self._on_gpu:  # from page-locked memory the device copies while the host goes on
            pinned = {
                name: value.pin_memory() if isinstance(value, torch.Tensor) else value
                for name, value in found.inputs.items()
            }
            found = replace(found, inputs=BatchFeature(pinned))
        return found, time.monotonic()

    def _sent(self, answer: Answer, tokens: list[int]) -> None:
        job = answer.job
        if job.on_text is None or not job.is_wanted():
            return
        try:
            if text := answer.stream.add(tokens):
                job.on_text(text)
        except Exception as error:
            self._failed(answer, error)

    def _answered(self, answer: Answer, model: str) -> None:
        job = answer.job
        if not job.is_wanted():
            return
        try:
            reading = page_reading(answer, model)
            if job.on_text is not None and (rest := answer.stream.end(reading.text)):
                job.on_text(rest)
        except Exception as error:
            self._failed(answer, error)
            return
        self._meter.page(reading)
        job.finish(reading)

    def _failed(self, answer: Answer, error: Exception) -> None:
        self._meter.failed("answer")
        logger.error("%s: an answer's text cannot be built: %s", answer.job.model, type(error).__name__)
        answer.job.fail(error)
