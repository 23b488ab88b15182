"""Finds the largest batch and the longest context that train within a device memory cap, by short trial trainings."""

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import BatchFeature

from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.programs.machine_failures import ran_out_of_device_memory
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.tracking.step_run import TRACKING_OFF, TrackedRun
from components.train.backends.protocol import TrainableModel
from components.train.batches.collator import with_image_processor
from components.train.config import TrainConfig
from components.train.loop.measurements import TrainingMeasurements, peak_memory_bytes, start_memory_peak
from components.train.loop.training import train

GIB = 2**30
_TRIAL_STEPS = 2  # in the second step the optimizer's states are in memory beside the activations
_TIMED_STEPS = 5
_FIRST_TIMED_STEP = 2
_TOLERANCE = 1 / 32  # a search ends at this relative precision
_CONTEXT_STEP = 64  # tokens

_PLAIN_TRAINING = {
    **{"gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "logging_steps": 1, "group_by_length": False},
    **{"eval_steps": None, "early_stopping_patience": None, "checkpoint_dir": None, "save_steps": None},
    "resume_from_checkpoint": "never",
}


def cap_device_memory(gib: float | None) -> str | None:
    """Limit this process to ``gib`` GiB of the first device's memory; return why a search is impossible, or None.

    The cap limits PyTorch's allocator; the CUDA context, about 0.5 GiB, comes on top. A cap above the device's memory
    has no effect.
    """
    if gib is None:
        return "memory_cap_gib is not set"
    if not torch.cuda.is_available():
        return "no CUDA device on this machine"
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), 0)
    return None


def largest_fitting(fits: Callable[[int], bool], first: int, limit: int, granule: int = 1) -> int:
    """Return the largest multiple of ``granule`` up to ``limit`` that fits, within 1/32: doubling, then bisection.

    ``first`` and ``limit`` are multiples of ``granule``. Returns 0 if not even ``first`` fits. Assumes that all values
    below a fitting one fit.

    >>> largest_fitting(lambda pages: pages <= 21, first=1, limit=1024)
    21
    >>> largest_fitting(lambda pages: pages <= 5000, first=1, limit=1024), largest_fitting(lambda _: False, 1, 8)
    (1024, 0)
    """
    low, high = 0, first
    while fits(high):
        low = high
        if low >= limit:
            return low
        high = min(2 * high, limit)
    while low and high - low > max(granule, low * _TOLERANCE):
        middle = (low + high) // 2 // granule * granule
        if middle <= low:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_batch(
    trainable: TrainableModel, config: TrainConfig, page: Sample, scratch: Path, limit: int
) -> dict[str, Any]:
    """Return how many copies of ``page`` train in one batch, and their samples/s, tokens/s and peak memory."""
    trials = _Trials(trainable, config, scratch)
    pages = largest_fitting(lambda pages: trials.trains(page, pages, config.max_length), 1, limit)
    # Measure in a separate run: a batch that fits for 2 steps may not fit for 6, depending on the allocator's state.
    while pages and not trials.trains(page, pages, config.max_length, _TIMED_STEPS):
        pages = math.floor(pages * (1 - _TOLERANCE))
    figures = trials.figures(_FIRST_TIMED_STEP) if pages else {}
    return {"pages": pages, "at_limit": pages == limit, **figures, "trials": trials.log}


def longest_context(
    trainable: TrainableModel, config: TrainConfig, page: Sample, scratch: Path, limit: int
) -> dict[str, Any]:
    """Return how many tokens of one page, with a lengthened label, can be trained on.

    Beyond ``model_positions`` the result only tells about memory. That is the length in the model's config, None if the
    config names none.
    """
    limit = limit // _CONTEXT_STEP * _CONTEXT_STEP
    tokenizer: Any = trainable.processor.tokenizer
    label_tokens = len(tokenizer(page.text, add_special_tokens=False).input_ids)
    longer = replace(page, metadata={**page.metadata, "text": page.text * (limit // max(1, label_tokens) + 1)})
    trials = _Trials(trainable, config, scratch)
    first = min(limit, max(_CONTEXT_STEP, 2 ** math.ceil(math.log2(_prompt_tokens(trainable, page) + _CONTEXT_STEP))))
    tokens = largest_fitting(lambda tokens: trials.trains(_cut(longer, tokens), 1, tokens), first, limit, _CONTEXT_STEP)
    text_config: Any = trainable.model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    return {"tokens": tokens, "at_limit": tokens == limit, "model_positions": positions, "trials": trials.log}


def _cut(page: Sample, tokens: int) -> Sample:
    """Return the page with its label cut to what ``tokens`` can hold: a token has at least 1 byte and at most ~16."""
    return replace(page, metadata={**page.metadata, "text": page.text[: 16 * tokens]})


def _prompt_tokens(trainable: TrainableModel, page: Sample) -> int:
    inputs = generation_inputs(trainable.processor, trainable.family, [page.image], [page.instruction])
    return int(inputs["input_ids"].shape[1])


class CopiesOfOnePicture:
    """An image processor that processes the first picture and repeats the result, for trials of 100 copies or more."""

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Sequence[Any], **options: Any) -> BatchFeature:
        computed = self._image_processor(images[:1], **options | {"return_tensors": "pt"})
        return BatchFeature({name: torch.cat([values] * len(images)) for name, values in computed.items()})


class _Trials:
    """Short trainings of one model, each of which may run out of memory."""

    def __init__(self, trainable: TrainableModel, config: TrainConfig, scratch: Path) -> None:
        processor: Any = trainable.processor
        one_picture = with_image_processor(processor, CopiesOfOnePicture(processor.image_processor))
        self._trainable = replace(trainable, processor=one_picture)
        self._config = config
        self._scratch = scratch
        self._last: TrainingMeasurements | None = None
        self._peak: dict[str, int | None] = {}
        self.log: list[dict[str, Any]] = []
        """one entry per trial, in order: pages, max_length, tokens, steps, fits"""

    def trains(self, page: Sample, pages: int, max_length: int, steps: int = _TRIAL_STEPS) -> bool:
        """Train ``steps`` steps on ``pages`` copies of ``page`` and return whether the memory sufficed."""
        overrides = {"per_device_train_batch_size": pages, "max_length": max_length, "max_steps": steps}
        config = self._config.model_copy(update={**_PLAIN_TRAINING, **overrides})
        start_memory_peak()
        copies = cast(ShardDataset, [page] * (pages * steps))  # the Trainer uses its length and items only
        try:
            self._last = train(self._trainable, copies, config, self._scratch, TrackedRun(TRACKING_OFF))
        except Exception as error:
            if not ran_out_of_device_memory(error):
                raise
            self._last = None
        self._peak = peak_memory_bytes()
        self._clear()
        fits = self._last is not None
        tokens = self._last.tokens_per_step[0] if self._last else None
        self.log.append({"pages": pages, "max_length": max_length, "tokens": tokens, "steps": steps, "fits": fits})
        return fits

    def figures(self, first_step: int) -> dict[str, Any]:
        """Return the last trial's speed from step ``first_step`` (counted from 0) on, and its peak memory."""
        assert self._last is not None
        seconds = statistics.median(self._last.step_seconds[first_step:])
        return {
            "median_step_seconds": seconds,
            "samples_per_second": self._last.samples_per_step[-1] / seconds,
            "tokens_per_second": self._last.tokens_per_step[-1] / seconds,
            "peak_memory_bytes": self._peak,
        }

    def _clear(self) -> None:
        model = self._trainable.model
        model.zero_grad(set_to_none=True)
        # Keep accelerate's wrapper for mixed precision: it marks the model as prepared, so accelerate would not wrap it
        # again.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
