"""Transcribing all pages with a model, in batches, and no page left out."""

import logging
import time
import traceback
from dataclasses import dataclass, field

import torch

from components.evaluate.pages import EvaluationPages
from components.shared.model_loading import release_memory
from components.shared.progress import ProgressReport
from components.shared.shard_reader import Sample
from components.shared.transcriber import Prediction, Transcriber

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


def transcribe(pages: EvaluationPages, transcriber: Transcriber, batch_size: int, name: str) -> Transcription:
    """Read every page, those first that are expected to take longest.

    Out of device memory, the batch is halved for the rest of the work. A batch that fails otherwise is read again
    page by page, and a page that fails alone gets an empty prediction with its error.

    Raises:
        Exception: the first page's error where every page failed: the fault is then not in the pages.
    """
    order = pages.by_expected_length()
    found: dict[int, Prediction] = {}
    first_error: Exception | None = None
    halvings = 0
    started = time.perf_counter()
    with ProgressReport(f"transcribe with {name}", total=len(pages)) as progress:
        while len(found) < len(order):
            batch = order[len(found) : len(found) + batch_size]
            try:
                answers = transcriber.read([pages[position] for position in batch])
            except torch.OutOfMemoryError as error:
                _release(error)
                if len(batch) > 1:
                    batch_size = len(batch) // 2
                    halvings += 1
                    logger.warning("out of memory with %d pages; going on with %d a batch", len(batch), batch_size)
                    continue
                answers, first_error = [_failure(error)], first_error or error
            except torch.AcceleratorError:
                raise  # the device's context is broken: every later page would fail with it
            except Exception as error:
                _release(error)
                answers = [_read_alone(transcriber, pages[position]) for position in batch]
                first_error = first_error or error
            found.update(zip(batch, answers, strict=True))
            progress.advance(len(batch))
    if first_error and all(answer.error for answer in found.values()):
        raise first_error
    return Transcription(
        predictions=[found[position] for position in range(len(pages))],
        seconds=time.perf_counter() - started,
        batch_size=batch_size,
        memory_halvings=halvings,
    )


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
