"""Evaluates during training: the loss on a sample of held-out pages, CER and WER on some that are transcribed."""

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

_NORMALIZATION: Profile = "nfkc-ws-v1"  # the evaluate step's default, so that the results are comparable
_MARGIN_TOKENS = 16


class EvaluationStoppedError(Exception):
    """The process was asked to end during an evaluation."""


def held_out_sample(config: TrainConfig) -> Subset[Sample]:
    """Return up to ``max_eval_samples`` held-out pages, drawn with the seed.

    Raises:
        UserError: the dataset has no held-out pages, or they are corrupt.
    """
    pages = ShardDataset(config.dataset_dir, "eval")
    drawn = random.Random(config.seed).sample(range(len(pages)), min(config.max_eval_samples, len(pages)))
    return Subset(pages, drawn)  # type: ignore[arg-type]  # a map-style dataset without its base class


class PageReading:
    """Transcribes and scores the same held-out pages at each evaluation."""

    def __init__(
        self,
        pages: Sequence[Sample],
        processor: ProcessorMixin,
        family: ModelFamily,
        config: TrainConfig,
        batch_size: int,
    ) -> None:
        self._pages = pages
        self._processor = processor
        self._family = family
        self._batch_size = batch_size
        longest = max(len(processor.tokenizer(page.text, add_special_tokens=False).input_ids) for page in pages)
        self._max_new_tokens = min(longest, config.max_length) + _MARGIN_TOKENS

    def error_rates(self, model: Any, stopped: Callable[[], bool]) -> dict[str, float]:
        """Return ``cer`` and ``wer`` over all pages together: edits per label character and per label word.

        Raises:
            EvaluationStoppedError: ``stopped`` returned true between two batches, in any process.
        """
        transcriber = Transcriber(model, self._processor, self._family, self._max_new_tokens)
        mine = self._pages[rank() :: process_count()]
        read: list[tuple[str, str]] = []
        # The first process has the most pages. All processes loop as often as it, so that all join in_any_process.
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
    # A sample may have blank pages only. The divisor is then 1: the rate is the number of edits, not an error.
    return sum(page.edits for page in counts) / max(1, sum(page.reference_length for page in counts))


@contextmanager
def undisturbed_training(model: torch.nn.Module) -> Iterator[None]:
    """Restore random states, training modes and checkpointing flags after the block.

    Evaluation then does not change the losses of a training.
    """
    modules = [(module, module.training, getattr(module, "gradient_checkpointing", None)) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            if hasattr(model, "for_training"):  # Unsloth: its generate() turns off more than these two flags
                model.for_training()  # type: ignore[operator]
            for module, training, checkpointing in modules:
                module.training = training
                if checkpointing is not None:
                    module.gradient_checkpointing = checkpointing
            random.setstate(python_state)
            np.random.set_state(numpy_state)
