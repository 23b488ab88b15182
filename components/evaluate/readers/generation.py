"""Transcribe all pages with a model, in batches; no page is left out."""

import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from components.evaluate.readers.batches_ahead import BatchesAhead
from components.evaluate.readers.pages import EvaluationPages
from components.shared.datasets.shard_reader import Sample
from components.shared.models.model_loading import release_memory
from components.shared.programs.machine_failures import causes_of, ran_out_of_device_memory
from components.shared.reading.transcriber import Prediction, PreparedPages, Transcriber
from components.shared.telemetry.progress import ProgressReport

logger = logging.getLogger(__name__)


@dataclass
class Transcription:
    """The predictions of one model over all pages.

    Attributes:
        predictions: one per page, in the pages' order.
        seconds: wall time of reading and preparing pictures, generation and decoding; loading the model is not in it.
        batch_size: pages per batch at the end.
        memory_halvings: how many times the batch was halved because the device ran out of memory.
        notes: remarks for the report.
        image_backend: what scaled the pictures for the model, ``torchvision`` or ``pil``.
    """

    predictions: list[Prediction]
    seconds: float
    batch_size: int
    memory_halvings: int = 0
    notes: list[str] = field(default_factory=list)
    image_backend: str | None = None


def transcribe(
    pages: EvaluationPages, transcriber: Transcriber, batch_size: int, name: str, threads: int = 0
) -> Transcription:
    """Read every page, the ones that should take longest first; ``threads`` prepare the next batches meanwhile.

    When the device runs out of memory, the batch size is halved for the remaining pages. A page whose picture is broken
    gets an empty prediction with the error. A batch that fails for another reason is read again page by page; a page
    that then fails gets an empty prediction too.

    Raises:
        torch.AcceleratorError: the device can no longer be used.
        Exception: every page failed, so the fault is not in the pages; it is the first error.
    """
    order = pages.by_expected_length()
    found: dict[int, Prediction] = {}
    broken: dict[int, Exception] = {}
    first_error: Exception | None = None
    halvings = 0
    started = time.perf_counter()
    with (
        ProgressReport(f"transcribe with {name}", total=len(pages)) as progress,
        BatchesAhead(lambda some: _prepared(transcriber, pages, some), order, threads) as batches,
    ):
        while len(found) < len(order):
            positions = order[len(found) : len(found) + batch_size]
            try:
                batch = batches.take(len(found), batch_size)
                broken.update(batch.broken)
                answers = _read(transcriber, batch)
            except Exception as error:
                if _broke_the_device(error):
                    raise
                _release(error)
                out_of_memory, count = ran_out_of_device_memory(error), len(positions)
                if out_of_memory and count > 1:
                    batch_size, halvings = count // 2, halvings + 1
                    said = "out of memory with %d pages; going on with %d a batch: %s"
                    logger.warning(said, count, batch_size, _in_words(error))
                    continue
                first_error = first_error or error
                if out_of_memory:
                    answers = {positions[0]: _failed(pages[positions[0]], error)}
                else:
                    logger.warning("a batch failed, its %d pages are read one by one: %s", count, _in_words(error))
                    answers = {position: _read_alone(transcriber, pages[position]) for position in positions}
            found.update(answers)
            progress.advance(len(positions))
    if all(answer.error for answer in found.values()):
        raise first_error or broken[order[0]]
    return Transcription(
        predictions=[found[position] for position in range(len(pages))],
        seconds=time.perf_counter() - started,
        batch_size=batch_size,
        memory_halvings=halvings,
    )


@dataclass(frozen=True)
class _Batch:
    """The readable pages of a batch, as tensors, and the errors of the pages whose pictures cannot be decoded."""

    readable: list[int]
    prepared: PreparedPages | None
    broken: dict[int, Exception]


def _prepared(transcriber: Transcriber, pages: EvaluationPages, positions: Sequence[int]) -> _Batch:
    """Prepare a batch; a broken picture must not force the other pages to be read one by one."""
    readable: dict[int, Sample] = {}
    broken: dict[int, Exception] = {}
    for position in positions:
        page = pages[position]
        try:
            page.image  # noqa: B018 (decoded once, and kept by the page)
            readable[position] = page
        except OSError as error:
            logger.warning("page %s failed: %s", page.key, error)
            broken[position] = error
    prepared = transcriber.prepare(list(readable.values())) if readable else None
    return _Batch(list(readable), prepared, broken)


def _read(transcriber: Transcriber, batch: _Batch) -> dict[int, Prediction]:
    answers = {position: _failure(error) for position, error in batch.broken.items()}
    if batch.prepared:
        answers |= zip(batch.readable, transcriber.read_prepared(batch.prepared), strict=True)
    return answers


def _read_alone(transcriber: Transcriber, page: Sample) -> Prediction:
    try:
        return transcriber.read([page])[0]
    except Exception as error:  # any error becomes this page's result: an empty prediction with the error
        if _broke_the_device(error):
            raise
        _release(error)
        return _failed(page, error)


def _broke_the_device(error: Exception) -> bool:
    """Return whether every later page would fail too: the device's context is lost (running out of memory keeps it)."""
    return isinstance(error, torch.AcceleratorError) and not ran_out_of_device_memory(error)


def _release(error: Exception) -> None:
    """Free the failed batch's memory: the tracebacks' frames still hold its tensors."""
    for cause in causes_of(error):
        traceback.clear_frames(cause.__traceback__)
    release_memory()


def _failed(page: Sample, error: Exception) -> Prediction:
    logger.warning("page %s failed: %s", page.key, _in_words(error))
    return _failure(error)


def _failure(error: Exception) -> Prediction:
    return Prediction(text="", error=_in_words(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
