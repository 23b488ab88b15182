"""The largest batch and the longest context that train below a cap on device memory, found by training them."""

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
_TRIAL_STEPS = 2  # the second one has the optimizer's states beside its activations
_TIMED_STEPS = 5
_FIRST_TIMED_STEP = 2
_TOLERANCE = 1 / 32  # a search ends when the answer is known that well
_CONTEXT_STEP = 64  # tokens

_PLAIN_TRAINING = {
    **{"gradient_accumulation_steps": 1, "dataloader_num_workers": 0, "logging_steps": 1, "group_by_length": False},
    **{"eval_steps": None, "early_stopping_patience": None, "checkpoint_dir": None, "save_steps": None},
    "resume_from_checkpoint": "never",
}


def cap_device_memory(gib: float | None) -> str | None:
    """Let this process hold at most ``gib`` GiB of the first device's memory; return why there is nothing to search.

    PyTorch's allocator keeps to the cap; the CUDA context, about 0.5 GiB, comes on top. A cap above the device's
    memory is the device's memory.
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

    ``first`` and ``limit`` are multiples of ``granule``. 0: not even ``first`` fits. Whatever is below a value that
    fits is taken to fit.

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
    # The figures are those of a run of its own: what fits for 2 steps may not for 6, by the allocator's state.
    while pages and not trials.trains(page, pages, config.max_length, _TIMED_STEPS):
        pages = math.floor(pages * (1 - _TOLERANCE))
    figures = trials.figures(_FIRST_TIMED_STEP) if pages else {}
    return {"pages": pages, "at_limit": pages == limit, **figures, "trials": trials.log}


def longest_context(
    trainable: TrainableModel, config: TrainConfig, page: Sample, scratch: Path, limit: int
) -> dict[str, Any]:
    """Return how many tokens of one page train, its label made longer; beyond the model's positions it is memory only.

    ``model_positions`` is the length that the model's config names, None where it names none.
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
    """Return the page with as much of its label as ``tokens`` can hold: a token has at least a byte, at most ~16."""
    return replace(page, metadata={**page.metadata, "text": page.text[: 16 * tokens]})


def _prompt_tokens(trainable: TrainableModel, page: Sample) -> int:
    inputs = generation_inputs(trainable.processor, trainable.family, [page.image], [page.instruction])
    return int(inputs["input_ids"].shape[1])


class CopiesOfOnePicture:
    """An image processor that computes the first picture and repeats it, for trials of a hundred copies and more."""

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
        """pages, tokens, fits: in the order of the trials"""

    def trains(self, page: Sample, pages: int, max_length: int, steps: int = _TRIAL_STEPS) -> bool:
        """Train ``steps`` steps on ``pages`` copies of ``page`` and return whether the memory sufficed."""
        overrides = {"per_device_train_batch_size": pages, "max_length": max_length, "max_steps": steps}
        config = self._config.model_copy(update={**_PLAIN_TRAINING, **overrides})
        start_memory_peak()
        copies = cast(ShardDataset, [page] * (pages * steps))  # all that the Trainer asks of it: length and items
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
        """Return the last trial's speed from step ``first_step`` on (0 is the first), and its peak memory."""
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
        # accelerate's wrapper for mixed precision stays: it marks the model as prepared, and would not wrap it again.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
