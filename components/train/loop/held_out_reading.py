"""Evaluation while a model trains: a sample of held-out pages for the loss, some of them read for CER and WER."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset
from transformers import ProcessorMixin

from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.models.model_families import ModelFamily
from components.shared.reading.transcriber import Transcriber
from components.shared.scoring.edit_counts import EditCounts, character_edits, word_edits
from components.shared.scoring.text_normalization import Profile, normalizer
from components.train.config import TrainConfig
from components.train.processes.distributed import in_any_process, of_all, process_count, rank

_NORMALIZATION: Profile = "nfkc-ws-v1"  # the evaluate step's default, so that the figures compare
_MARGIN_TOKENS = 16


class EvaluationStoppedError(Exception):
    """The process was asked to end while it evaluated."""


def held_out_sample(config: TrainConfig) -> Subset[Sample]:
    """Return ``max_eval_samples`` held-out pages, drawn with the seed.

    Raises:
        UserError: the dataset has no held-out pages, or they are corrupt.
    """
    pages = ShardDataset(config.dataset_dir, "eval")
    drawn = random.Random(config.seed).sample(range(len(pages)), min(config.max_eval_samples, len(pages)))
    return Subset(pages, drawn)  # type: ignore[arg-type]  # a map-style dataset without its base class


class PageReading:
    """Reads the same held-out pages at each evaluation and scores them."""

    def __init__(
        self, pages: Sequence[Sample], processor: ProcessorMixin, family: ModelFamily, config: TrainConfig
    ) -> None:
        self._pages = pages
        self._processor = processor
        self._family = family
        self._batch_size = config.per_device_train_batch_size
        longest = max(len(processor.tokenizer(page.text, add_special_tokens=False).input_ids) for page in pages)
        self._max_new_tokens = min(longest, config.max_length) + _MARGIN_TOKENS

    def error_rates(self, model: Any, stopped: Callable[[], bool]) -> dict[str, float]:
        """Return ``cer`` and ``wer``: edits by label length, in characters and words, over all pages together.

        Raises:
            EvaluationStoppedError: ``stopped`` said so between two batches, in one process or more.
        """
        transcriber = Transcriber(model, self._processor, self._family, self._max_new_tokens)
        mine = self._pages[rank() :: process_count()]
        read: list[tuple[str, str]] = []
        # The first process has as many pages as any: all come to each question.
        for start in range(0, len(self._pages[:: process_count()]), self._batch_size):
            if in_any_process(stopped()):
                raise EvaluationStoppedError
            batch = mine[start : start + self._batch_size]
            texts = [prediction.text for prediction in transcriber.read(batch)] if batch else []
            read += zip((page.text for page in batch), texts, strict=True)
        pairs = list(chain(*of_all(read)))
        return error_rates([label for label, _ in pairs], [text for _, text in pairs])


def error_rates(labels: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Return corpus CER and WER after the normalisation nfkc-ws-v1.

    >>> error_rates(["kitten  here"], ["sitten here"])
    {'cer': 0.09090909090909091, 'wer': 0.5}
    """
    normalise = normalizer(_NORMALIZATION)
    pairs = [(normalise(label), normalise(text)) for label, text in zip(labels, texts, strict=True)]
    return {"cer": _rate(starmap(character_edits, pairs)), "wer": _rate(starmap(word_edits, pairs))}


def _rate(pages: Iterable[EditCounts]) -> float:
    counts = list(pages)
    # A sample may be blank pages alone: their rate is 0 or the edits themselves, and the training goes on.
    return sum(page.edits for page in counts) / max(1, sum(page.reference_length for page in counts))


@contextmanager
def undisturbed_training(model: torch.nn.Module) -> Iterator[None]:
    """Leave random states, training modes and checkpointing flags after the block as they were before it.

    The losses of a training are then the same with and without evaluation.
    """
    modules = [(module, module.training, getattr(module, "gradient_checkpointing", None)) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            if hasattr(model, "for_training"):  # Unsloth's; its generate() turns more off than these two flags
                model.for_training()  # type: ignore[operator]
            for module, training, checkpointing in modules:
                module.training = training
                if checkpointing is not None:
                    module.gradient_checkpointing = checkpointing
            random.setstate(python_state)
            np.random.set_state(numpy_state)
