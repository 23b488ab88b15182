"""Finds the largest batch that fits into memory, for ``fit_batch``.

    python -m components.train.estimate.fitting_batch < request.json

reads a train step's config, the pages, the backend and the free bytes (JSON), and prints the largest
``per_device_train_batch_size`` up to the pages of an optimizer step (0: not even one page fits) and its estimate.
"""

import json
import logging
import sys
from dataclasses import asdict
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.memory_limits import memory_limit, memory_taken
from components.train.batches.batch_plan import BatchPlan, configured_plan, fitted_plan, in_words, pages_per_step
from components.train.config import TrainConfig
from components.train.estimate.gpu_limits import needed_bytes
from components.train.estimate.memory_estimate import MemoryEstimate, Pages, estimate_memory
from components.train.estimate.preflight import answered_elsewhere, check_free_memory, largest_pages, refusal

log = logging.getLogger(__name__)


def plan_within_memory(config: TrainConfig, dataset: ShardDataset, backend: str) -> BatchPlan:
    """Check the free memory, and return the batch plan: the config's, or with ``fit_batch`` the largest that fits.

    Raises:
        UserError: the training does not fit; with ``fit_batch``, not even with one page per batch.
    """
    if not config.fit_batch:
        check_free_memory(config, dataset, backend)
        return configured_plan(config)
    free, where = _free_memory()
    # The estimate computes as on a GPU, where ``auto`` is bfloat16.
    on_cpu = {"dtype": "float32"} if config.dtype == "auto" and not torch.cuda.is_available() else {}
    asked = config.model_copy(update=on_cpu).model_dump(mode="json")
    try:
        pages = asdict(largest_pages(config, dataset))
        request = {"config": asked, "pages": pages, "backend": backend, "free_bytes": free}
        answer = answered_elsewhere("components.train.estimate.fitting_batch", request)
    except UserError as error:
        log.warning("fit_batch keeps the batch as it is, there is no memory estimate: %s", error)
        return configured_plan(config)
    fitting, needed = answer["pages"], answer["needed_bytes"] / 2**30
    if not fitting and not config.ignore_memory_estimate:
        raise refusal(f"{needed:.1f} GiB are predicted with one page per batch", free, where)
    plan = fitted_plan(config, max(1, fitting))
    log.info("fit_batch: %s: %.1f GiB are predicted, %.1f are free", in_words(plan.settings), needed, free / 2**30)
    return plan


def largest_fitting(config: TrainConfig, pages: Pages, backend: str, free_bytes: int) -> tuple[int, MemoryEstimate]:
    """Return the most pages per batch, up to those of an optimizer step, whose estimate and its known error fit.

    0 where one page does not fit, with the estimate for it. The peak never falls with more pages.
    """

    def estimate_of(batch: int) -> MemoryEstimate:
        of_batch = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": -(-most // batch)}
        return estimate_memory(config.model_copy(update=of_batch), pages, backend)

    most = pages_per_step(config)
    low, high, found = 0, most, None
    while low < high:
        middle = high if high == most else (low + high + 1) // 2
        estimate = estimate_of(middle)
        if needed_bytes(estimate) <= free_bytes:
            low, found = middle, estimate
        else:
            high = middle - 1
    return low, found or estimate_of(1)


def _free_memory() -> tuple[int, str]:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0], "GPU memory"
    return memory_limit() - memory_taken(), "memory limit"


def main() -> int:
    """Read the request from standard input, print the answer, and return the exit code."""
    transformers_logging.set_verbosity_error()
    request: dict[str, Any] = json.load(sys.stdin)
    try:
        config = TrainConfig.model_validate(request["config"])
        found, estimate = largest_fitting(config, Pages(**request["pages"]), request["backend"], request["free_bytes"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE_USER_ERROR
    print(json.dumps({"pages": found, "needed_bytes": needed_bytes(estimate)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
