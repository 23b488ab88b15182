"""Transcribing all pages with a model, in batches, and no page left out."""

import logging
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from components.evaluate.batches_ahead import BatchesAhead
from components.evaluate.pages import EvaluationPages
from components.shared.model_loading import release_memory
from components.shared.progress import ProgressReport
from components.shared.shard_reader import Sample
from components.shared.transcriber import Prediction, PreparedPages, Transcriber

logger = logging.getLogger(__name__)


@dataclass
class Transcription:
    """The predictions of one model over all pages.

    Attributes:
        predictions: one per page, in the pages' order.
        seconds: wall time of the whole work: reading and preparing pictures, generation, decoding; without
            loading the model.
        batch_size: pages per batch at the end.
        memory_halvings: how many times the batch was halved because the device ran out of memory.
        notes: what the reader of the report has to know besides.
    """

    predictions: list[Prediction]
    seconds: float
    batch_size: int
    memory_halvings: int = 0
    notes: list[str] = field(default_factory=list)


def transcribe(
    pages: EvaluationPages, transcriber: Transcriber, batch_size: int, name: str, threads: int = 0
) -> Transcription:
    """Read every page, those first that are expected to take longest; ``threads`` prepare the next batches meanwhile.

    Out of device memory, the batch is halved for the rest of the work. A page whose picture is broken gets an empty
    prediction with its error. A batch that fails otherwise is read again page by page, and a page that fails alone gets
    one too.

    Raises:
        Exception: the first error where every page failed: the fault is then not in the pages.
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
            except torch.OutOfMemoryError as error:
                _release(error)
                if len(positions) > 1:
                    batch_size = len(positions) // 2
                    halvings += 1
                    logger.warning("out of memory with %d pages; going on with %d a batch", len(positions), batch_size)
                    continue
                answers, first_error = {positions[0]: _failure(error)}, first_error or error
            except torch.AcceleratorError:
                raise  # the device's context is broken: every later page would fail with it
            except Exception as error:
                _release(error)
                answers = {position: _read_alone(transcriber, pages[position]) for position in positions}
                first_error = first_error or error
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
    """The pages of a batch whose pictures can be decoded, as tensors, and why the others' cannot."""

    readable: list[int]
    prepared: PreparedPages | None
    broken: dict[int, Exception]


def _prepared(transcriber: Transcriber, pages: EvaluationPages, positions: Sequence[int]) -> _Batch:
    """Prepare a batch; one broken picture does not make the other pages be read one by one."""
    readable: dict[int, Sample] = {}
    broken: dict[int, Exception] = {}
    for position in positions:
        page = pages[position]
        try:
            page.image  # noqa: B018 (decoded once, and kept by the page)
            readable[position] = page
        except (OSError, ValueError, Image.DecompressionBombError) as error:
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
    except torch.AcceleratorError:
        raise
    except Exception as error:  # whatever it is, it is this page's score: an empty prediction with its error
        logger.warning("page %s failed: %s", page.key, error)
        _release(error)
        return _failure(error)


def _release(error: Exception) -> None:
    """Give the failed batch's memory back: the frames in the error's traceback still hold its tensors."""
    traceback.clear_frames(error.__traceback__)
    release_memory()


def _failure(error: Exception) -> Prediction:
    return Prediction(text="", error=f"{type(error).__name__}: {error}"[:500])
