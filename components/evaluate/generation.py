"""Transcribing pages with a model: greedy, in batches, and no page left out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, ProcessorMixin

from components.evaluate.pages import EvaluationPages
from components.shared.image_text_inputs import generation_inputs
from components.shared.model_families import ModelFamily
from components.shared.progress import ProgressReport
from components.shared.shard_reader import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model wrote for one page.

    Attributes:
        text: the transcription; empty where ``error`` says that the page failed.
        truncated: it reached ``max_new_tokens`` without an end-of-sequence token.
        seconds: the batch's time divided by its pages.
        error: why the page has no transcription.
    """

    text: str
    truncated: bool = False
    seconds: float = 0.0
    error: str | None = None


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


class Transcriber:
    """A model that reads pages.

    Args:
        model: in evaluation mode, on its device.
        processor: the model's.
        family: the model's.
        max_new_tokens: longest answer in tokens.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, family: ModelFamily, max_new_tokens: int
    ) -> None:
        self._model: Any = model  # generate() is a mixin of the concrete classes, not of PreTrainedModel
        self._processor = processor
        self._family = family
        self._max_new_tokens = max_new_tokens
        self._end_tokens = _end_tokens(model, processor)

    @torch.inference_mode()
    def read(self, pages: Sequence[Sample]) -> list[Prediction]:
        """Transcribe pages as one batch; greedy, so that the same batch gives the same texts."""
        started = time.perf_counter()
        inputs = generation_inputs(
            self._processor, self._family, [page.image for page in pages], [page.instruction for page in pages]
        ).to(self._model.device, self._model.dtype)
        output = self._model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._pad_token,
        )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        decoded = [self._decoded(answer) for answer in answers]
        seconds = (time.perf_counter() - started) / len(pages)
        return [Prediction(text, truncated, seconds) for text, truncated in decoded]

    @property
    def _pad_token(self) -> int:
        pad = self._processor.tokenizer.pad_token_id
        return self._end_tokens[0] if pad is None else int(pad)

    def _decoded(self, answer: list[int]) -> tuple[str, bool]:
        end = next((index for index, token in enumerate(answer) if token in self._end_tokens), None)
        text = self._processor.tokenizer.decode(answer[:end], skip_special_tokens=True)
        return str(text), end is None


def transcribe(pages: EvaluationPages, transcriber: Transcriber, batch_size: int, name: str) -> Transcription:
    """Read every page, the largest first.

    Out of device memory, the batch is halved for the rest of the work. A batch that fails otherwise is read again
    page by page, and a page that fails alone gets an empty prediction with its error.

    Raises:
        Exception: the first page's error where every page failed: the fault is then not in the pages.
    """
    order = pages.by_area()
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
                torch.cuda.empty_cache()
                if len(batch) > 1:
                    batch_size = len(batch) // 2
                    halvings += 1
                    logger.warning("out of memory with %d pages; going on with %d a batch", len(batch), batch_size)
                    continue
                answers, first_error = [_failure(error)], first_error or error
            except torch.AcceleratorError:
                raise  # the device's context is broken: every later page would fail with it
            except Exception as error:
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
        return _failure(error)


def _failure(error: Exception) -> Prediction:
    return Prediction(text="", error=f"{type(error).__name__}: {error}"[:500])


def _end_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """The generation config's end tokens and the tokenizer's, which training puts after every answer."""
    configured = model.generation_config.eos_token_id
    tokens = list(configured) if isinstance(configured, list) else [configured]
    tokens.append(processor.tokenizer.eos_token_id)
    return sorted({int(token) for token in tokens if token is not None})
