"""Deals a CPU training step out to the cores: small parts of the batch, each computed by one thread from end to end.

PyTorch splits each operation in equal parts between its threads. A thread that shares its core with another process
takes twice as long for its part, and the others wait for it, operation by operation. Here each thread takes the next
part of the batch when it is ready for it, so a slowed one takes fewer parts; docs/benchmarks/cpu has the figures.

The result depends on the data, the seed and the parts. It does not depend on the number of threads or on which thread
computes which part:

- ``torch.set_num_threads`` sets OpenMP's and MKL's number for the calling thread, so a worker that sets 1 computes each
  operation alone, in the same order of additions. Backward passes on a CPU run in the thread that asks for them.
- ``torch.autograd.grad`` returns a part's gradients and writes nothing that another thread sees. The training's own
  thread adds losses and gradients in the order of the parts.
- Grad mode and autocast belong to a thread; a new one has gradients on and autocast off, as the Trainer has in float32.
- No thread draws random numbers: their order would depend on timing. Models with dropout are not dealt. If the
  generator has moved after a step for another reason, the step is computed again part by part.

Each part's loss is divided by the label tokens of the whole step, as for an undivided batch, so loss and gradients are
the same up to rounding. That holds only for rows that do not depend on each other: see ``obstacle``.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper

from components.train.backends.protocol import TrainableModel
from components.train.batches.batch_plan import BatchPlan
from components.train.config import TrainConfig
from components.train.loop.measurements import TrainingMeasurements

log = logging.getLogger(__name__)

_PAGES_IN_A_PART = (3, 2)
"""The first that gives enough parts. Chosen with the quickstart's 16 pages and two cores, on a machine with other work:
parts of 2, 3 and 4 pages took about the same time alone, parts of one page longer; beside a busy process 3 varied
least. What came of it on a quiet machine is in docs/benchmarks/cpu."""
_PARTS_PER_THREAD = 2
"""At least: with one each, all wait for the slowest thread again, as without dealing."""
_MOST_GRADIENT_BYTES = 2**30
"""All parts' gradients may have to wait for the first part's: a choice, not measured."""
_ROPE_THAT_REMEMBERS = {"dynamic", "longrope"}

Gradients = Sequence[torch.Tensor | None]


class DealingThreads:
    """The threads that compute the parts of a step; ``close`` ends them."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "dealt-page", initializer=torch.set_num_threads, initargs=(1,))

    def summed(
        self, compute: Callable[[dict[str, Any]], tuple[torch.Tensor, Gradients]], parts: Sequence[dict[str, Any]]
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]] | None:
        """Return the sum of the parts' losses and gradients, added in the order of ``parts``.

        None if random numbers were drawn: their state is then as before, and the result must not be used.
        ``compute`` returns a part's loss and gradients. Its errors are raised here, when no thread computes any more.
        """
        before = torch.get_rng_state()
        futures = deque(self._pool.submit(compute, part) for part in parts)
        try:
            loss, gradients = futures.popleft().result()
            # Copied: autograd may return one tensor for two weights, and the sums are changed in place.
            sums = [None if gradient is None else gradient.clone() for gradient in gradients]
            while futures:
                more, gradients = futures.popleft().result()
                loss = loss + more
                for place, gradient in enumerate(gradients):
                    add_to(sums, place, gradient)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
        if torch.equal(before, torch.get_rng_state()):
            return loss, sums
        torch.set_rng_state(before)
        return None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def add_to(sums: list[torch.Tensor | None], place: int, gradient: torch.Tensor | None) -> None:
    """Add a weight's gradient to its sum; None means that a part does not use the weight."""
    total = sums[place]
    if gradient is not None:
        sums[place] = gradient.clone() if total is None else total.add_(gradient)


@contextmanager
def dealt_steps(
    trainer: Any, trainable: TrainableModel, config: TrainConfig, plan: BatchPlan, measurements: TrainingMeasurements
) -> Iterator[None]:
    """Within the block, let ``trainer`` (a ``MicroBatchTrainer``) deal its batches out, unless there is an obstacle.

    The number of pages in a part goes into ``measurements.batch``.
    """
    threads = torch.get_num_threads()
    pages = pages_in_a_part(plan.loaded, threads)
    if found := obstacle(trainer, trainable, config, plan):
        log.info("a step's pages are not dealt out to single threads: %s", found)
        yield
        return
    log.info("a step's pages are dealt out to %d threads, %d at a time", threads, pages)
    measurements.batch = {**(measurements.batch or {}), "dealt_pages": pages}
    dealing = DealingThreads(threads)
    try:
        with trainer.dealt_out(dealing, pages):
            yield
    finally:
        dealing.close()
        # The workers' number is also that of all threads that start from now on.
        torch.set_num_threads(threads)


def pages_in_a_part(pages: int, threads: int) -> int | None:
    """Return how many of a batch's ``pages`` make a part; None if there are too few for ``threads`` threads.

    >>> pages_in_a_part(16, threads=2), pages_in_a_part(16, threads=4), pages_in_a_part(16, threads=8)
    (3, 2, None)
    """
    return next((part for part in _PAGES_IN_A_PART if -(-pages // part) >= _PARTS_PER_THREAD * threads), None)


def obstacle(trainer: Any, trainable: TrainableModel, config: TrainConfig, plan: BatchPlan) -> str | None:
    """Return why a training's batches are not dealt out to PyTorch's number of threads; None if they are."""
    if trainer.args.device.type != "cpu" or trainer.args.world_size > 1:
        return "that is for one process on a CPU"
    return (
        _batch_obstacle(trainable.model, plan) or _settings_obstacle(trainer, config) or model_obstacle(trainable.model)
    )


def _batch_obstacle(model: torch.nn.Module, plan: BatchPlan) -> str | None:
    threads = torch.get_num_threads()
    pages = pages_in_a_part(plan.loaded, threads)
    if threads == 1:
        return "there is one thread"
    if pages is None:
        return f"{plan.loaded} pages in a batch are too few for {threads} threads"
    if plan.micro_batch < threads * pages:
        return f"{plan.micro_batch} pages may be in memory at a time, {threads} threads would have {threads * pages}"
    parts = -(-plan.loaded // pages)
    gradients = parts * sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    if gradients > _MOST_GRADIENT_BYTES:
        return f"the gradients of {parts} parts may take {gradients / 2**30:.1f} GiB"
    return None


def _settings_obstacle(trainer: Any, config: TrainConfig) -> str | None:
    if trainer.args.bf16:
        return "threads share autocast's copies of the weights"
    for name in ("gradient_checkpointing", "vision_features_dir", "load_in_4bit", "load_in_8bit", "trust_remote_code"):
        if getattr(config, name):
            return f"{name} is set"
    if not trainer.model_accepts_loss_kwargs:
        return "the model divides its loss by the tokens of each pass"
    return None


def model_obstacle(model: Any) -> str | None:
    """Return what in a model makes the rows of a batch depend on each other, on chance, or on earlier batches."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            return f"{name} normalises over the batch"
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p:
            return f"{name} draws random numbers"
        if isinstance(module, ParamWrapper):  # adapt_experts: threads would undo each other's replacement
            return f"{name} replaces its weights during each pass"
    for name, value in _settings(model.config.to_dict()):
        if re.search("drop|jitter", name) and value and not isinstance(value, str):
            return f"the model draws random numbers ({name}: {value})"
        if name == "output_router_logits" and value:
            return "the load of the experts is balanced over the batch"
        if name in {"rope_type", "type"} and value in _ROPE_THAT_REMEMBERS:
            return f"positions depend on the batches before (rope {value})"
    return None


def _settings(found: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a config and of the configs in it."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _settings(value)
        else:
            yield str(name), value
