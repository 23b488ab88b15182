"""Finds which GPUs a training fits on, and the largest batch and the longest context there.

The estimate is computed for doubled batch sizes and context lengths until the largest GPU is full (``_ladder``); each
GPU's limits are interpolated between these (``_largest``).
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from components.train.config import TrainConfig
from components.train.estimate.memory_estimate import MemoryEstimate, Pages, estimate_memory

# The largest error of the estimate that docs/benchmarks/training/estimate.md leaves unexplained, rounded up.
KNOWN_ERROR = 0.10
# Not measured here. For a T4 with "16 GB", PyTorch reports 14.56 to 14.76 GiB depending on the driver (out-of-memory
# messages in public issues); for an L4 with "24 GB", nvidia-smi reports 22.5 GiB (modal-labs/modal-client#2797). All
# GPUs use about the smaller of these two shares.
_SHARE_SHOWN = 0.92
_CONTEXT_BYTES = 2**29
_LARGEST_BATCH = 512

# Nominal gigabytes, as in the product names.
GPUS = {
    "T4": 16,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "L4": 24,
    "A10G": 24,
    "A100 40 GB": 40,
    "A100 80 GB": 80,
    "H100": 80,
    "H200": 141,
}


@dataclass(frozen=True)
class GpuLimits:
    """One GPU type: usable bytes, whether the config fits, and the limits (None: not even the smallest fits)."""

    gpu: str
    usable_bytes: int
    fits: bool
    largest_batch: int | None
    longest_context: int | None


def usable_bytes(gigabytes: int) -> int:
    """Return the bytes that a training can allocate on a GPU with nominally ``gigabytes``."""
    return int(gigabytes * _SHARE_SHOWN * 2**30) - _CONTEXT_BYTES


def needed_bytes(estimate: MemoryEstimate) -> int:
    """Return the bytes that an estimate may come to, with its known error."""
    return int(max(estimate.peak_bytes, estimate.loading_peak_bytes) * (1 + KNOWN_ERROR))


def gpu_limits(
    config: TrainConfig,
    pages: Pages,
    estimate: MemoryEstimate,
    longest_known: int,
    gpus: Mapping[str, int] = GPUS,
) -> list[GpuLimits]:
    """Return the limits on each of ``gpus`` (names and gigabytes), with ``KNOWN_ERROR`` as the margin.

    The batch limit keeps the tokens per row; the context limit (tokens per row, at most ``longest_known``, the model's
    largest position) is for one page per batch. Between two powers of two the peak is interpolated linearly. The peak
    is the maximum of sums that grow at least linearly, so the interpolation is not below it.
    """
    budgets = {name: usable_bytes(size) for name, size in gpus.items()}
    highest = max(budgets.values())

    def peak_of_batch(batch: int) -> int:
        grown = config.model_copy(update={"per_device_train_batch_size": batch})
        return needed_bytes(estimate_memory(grown, pages, estimate.backend))

    def peak_of_context(tokens: int) -> int:
        single = config.model_copy(update={"per_device_train_batch_size": 1})
        return needed_bytes(estimate_memory(single, replace(pages, tokens=tokens), estimate.backend))

    batches = _ladder(peak_of_batch, 1, _LARGEST_BATCH, highest)
    contexts = _ladder(peak_of_context, estimate.page_tokens, longest_known, highest)
    return [
        GpuLimits(name, budget, needed_bytes(estimate) <= budget, _largest(batches, budget), _largest(contexts, budget))
        for name, budget in budgets.items()
    ]


def _ladder(peak_of: Callable[[int], int], start: int, end: int, highest: int) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    size = start
    while not steps or (steps[-1][0] < end and steps[-1][1] <= highest):
        steps.append((size, peak_of(size)))
        size = min(2 * size, max(end, start))
    return steps


def _largest(steps: list[tuple[int, int]], budget: int) -> int | None:
    if steps[0][1] > budget:
        return None
    for (low, low_peak), (high, high_peak) in itertools.pairwise(steps):
        if high_peak > budget:
            return low + int((high - low) * (budget - low_peak) / (high_peak - low_peak))
    return steps[-1][0]
