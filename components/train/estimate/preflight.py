"""Checks before loading whether a training fits into the GPU's free memory.

``largest_pages`` samples the dataset for the largest page, ``_estimate_elsewhere`` runs ``memory_estimate`` on it in a
separate process, and ``check_memory`` compares the result with the free memory: it logs, warns or raises.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import torch

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor, model_type_of
from components.shared.reading.image_text_inputs import training_inputs
from components.train.batches.collator import padding_granule
from components.train.config import TrainConfig
from components.train.estimate.gpu_limits import KNOWN_ERROR
from components.train.estimate.least_memory import check_least_memory
from components.train.estimate.memory_estimate import MemoryEstimate, Pages

log = logging.getLogger(__name__)

_PAGES_LOOKED_AT = 32
_SECONDS = 300


def check_free_memory(config: TrainConfig, dataset: ShardDataset, backend: str) -> None:
    """Run ``check_memory`` with the free memory of the first CUDA device.

    On a machine without one, and where the estimate fails, compare what the weights need at least.

    Raises:
        UserError: the training does not fit.
    """
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    if free is None or check_memory(config, dataset, backend, free) is None:
        check_least_memory(config)


def check_memory(config: TrainConfig, dataset: ShardDataset, backend: str, free_bytes: int) -> MemoryEstimate | None:
    """Return the memory estimate of a training on ``dataset``; if it fails, log a warning and return None.

    The estimate runs in a separate process, because Unsloth has patched transformers in this one.

    Raises:
        UserError: the estimate exceeds ``free_bytes`` by more than its known error, and
            ``config.ignore_memory_estimate`` is off. If the estimate is only an upper bound, or within its known error
            of the free memory, a warning is logged instead.
    """
    try:
        estimate = _estimate_elsewhere(config, largest_pages(config, dataset), backend)
    except UserError as error:
        log.warning("no memory estimate: %s", error)
        return None
    needed, free = max(estimate.peak_bytes, estimate.loading_peak_bytes) / 2**30, free_bytes / 2**30
    log.info("memory: %s%.1f GiB are predicted, %.1f GiB are free", "at most " * estimate.upper_bound, needed, free)
    if needed * (1 + KNOWN_ERROR) <= free:
        return estimate
    refused = refusal(f"{needed:.1f} GiB are predicted at the peak", free_bytes, "GPU memory")
    if needed * (1 - KNOWN_ERROR) <= free or config.ignore_memory_estimate or estimate.upper_bound:
        log.warning("%s: it may run out of memory", refused.problem)
        return estimate
    raise refused


def refusal(predicted: str, free_bytes: int, where: str) -> UserError:
    """Return the error of a training that does not fit; ``predicted`` says what it needs."""
    return UserError(
        f"{predicted}, and {free_bytes / 2**30:.1f} GiB are free",
        where=where,
        mend="lower per_device_train_batch_size or max_length, set load_in_4bit or gradient_checkpointing,"
        " or go on with ignore_memory_estimate: true",
    )


def largest_pages(config: TrainConfig, dataset: ShardDataset) -> Pages:
    """Return the size of the largest picture and the longest row in an evenly spread sample of ``dataset``."""
    step = max(1, len(dataset) // _PAGES_LOOKED_AT)
    samples = [dataset[index] for index in range(0, len(dataset), step)]
    largest = max(samples, key=lambda sample: sample.image.width * sample.image.height)
    longest = max(samples, key=lambda sample: len(sample.text))
    processor = load_processor(config.base_model, config.revision, config.trust_remote_code)
    family = family_of(model_type_of(config.base_model, config.revision, config.trust_remote_code))
    page = ([largest.image], [longest.instruction], [longest.text])
    batch = training_inputs(processor, family, *page, config.max_length, padding_granule(config))
    return Pages(largest.image.width, largest.image.height, batch["input_ids"].shape[1])


def _estimate_elsewhere(config: TrainConfig, pages: Pages, backend: str) -> MemoryEstimate:
    request = {"config": config.model_dump(mode="json"), "pages": asdict(pages), "backend": backend}
    return MemoryEstimate(**answered_elsewhere("components.train.estimate.memory_estimate", request))


def answered_elsewhere(module: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run ``module`` in a process of its own, which uses no GPU, with ``request`` as its input; return its answer.

    Raises:
        UserError: it failed, or took too long.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # the estimate must not use GPU memory itself
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"it took more than {_SECONDS} s") from error
    if answer.returncode:
        raise UserError((answer.stderr.strip().splitlines() or ["it failed"])[-1].removeprefix("error: "))
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found
