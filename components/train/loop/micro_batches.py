"""Batches that are passed through the model in parts: less memory, and the same optimizer step.

The loader's batches, and with them the pages of a step and their order, do not depend on the parts. A step's gradient
is the same up to rounding: transformers divides each part's loss by the tokens of the whole step. For a model whose
loss is the mean of its batch, each part counts with its share of the batch's tokens.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from components.shared.errors import UserError
from components.shared.reading.image_text_inputs import IGNORED_LABEL
from components.train.batches.collator import PageCollator, every_page_has_an_answer, parts_of
from components.train.loop.dealing import DealingThreads, Gradients
from components.train.loop.measurements import TrainingMeasurements
from components.train.loop.page_loading import PageLoadingTrainer
from components.train.loop.utilization import LanguageModelFlops
from components.train.processes.distributed import in_any_process, summed

log = logging.getLogger(__name__)


class MicroBatchTrainer(PageLoadingTrainer):
    """A Trainer over batches of ``PageCollator``, whole or in parts; it counts their tokens and pages."""

    def __init__(
        self, *, measurements: TrainingMeasurements, collator: PageCollator, model: torch.nn.Module, **options: Any
    ) -> None:
        super().__init__(data_collator=collator, model=model, **options)
        self._measurements = measurements
        self._collator = collator
        self._flops = LanguageModelFlops(model)
        self._share = 1.0
        self._dealing: DealingThreads | None = None

    @contextmanager
    def dealt_out(self, dealing: DealingThreads, pages: int) -> Iterator[None]:
        """Within the block, compute training batches with ``dealing``, in parts of ``pages`` pages of similar length.

        Other batches are computed in the same parts, one after the other.
        """
        undealt = self._collator.micro_batch, self._collator.longest_first
        self._collator.micro_batch, self._collator.longest_first = pages, True
        self._dealing = dealing
        try:
            yield
        finally:
            self._dealing = None
            self._collator.micro_batch, self._collator.longest_first = undealt

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Return a step's batches and the number of their label tokens, and measure the wait for them."""
        started = time.perf_counter()
        batches = [batch for _ in range(num_batches) if (batch := next(epoch_iterator, None)) is not None]
        self._measurements.data_wait_seconds.append(time.perf_counter() - started)
        parts = [part for batch in batches for part in parts_of(batch)]
        _, tokens = super().get_batch_samples(iter(parts), len(parts), device)
        return batches, tokens

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Count tokens and pages, and train on a batch, part by part; return its loss."""
        parts = parts_of(inputs)
        self._check_answers(parts)
        if self._dealing and len(parts) > 1:
            loss = self._dealt_step(self._dealing, model, parts, num_items_in_batch)
            if loss is not None:
                return loss
        losses = []
        for part, share in zip(parts, self._shares(parts, num_items_in_batch), strict=True):
            self._count(part)
            self._share = share
            # With several processes, only the last part's backward pass exchanges the gradients.
            with nullcontext() if part is parts[-1] else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, part, num_items_in_batch))
        return torch.stack(losses).sum()

    def _dealt_step(
        self,
        dealing: DealingThreads,
        model: torch.nn.Module,
        parts: list[dict[str, Any]],
        tokens: torch.Tensor | int | None,
    ) -> torch.Tensor | None:
        """Add the gradients of ``parts`` to the weights', and return their loss; None where they draw random numbers.

        Such a model is not dealt out any more.
        """
        weights = [weight for weight in model.parameters() if weight.requires_grad]

        def gradients(part: dict[str, Any]) -> tuple[torch.Tensor, Gradients]:
            loss = self.compute_loss(model, part, num_items_in_batch=tokens)
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        model.train()
        summed_up = dealing.summed(gradients, parts)
        if summed_up is None:
            log.warning("the model draws random numbers: its batches are no longer dealt out to single threads")
            self._dealing = None
            self._measurements.batch = {**(self._measurements.batch or {}), "dealt_pages": None}
            return None
        loss, sums = summed_up
        for weight, gradient in zip(weights, sums, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
        for part in parts:
            self._count(part)
        return loss

    def compute_loss(self, *places: Any, **options: Any) -> Any:
        """Return the loss, weighted by the part's share of its batch where the model divides by the part's tokens."""
        loss: Any = super().compute_loss(*places, **options)
        return loss if self._share == 1.0 else loss * self._share

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *places: Any, **options: Any) -> Any:
        """Return the loss of one held-out batch: the mean over its tokens."""
        parts = parts_of(inputs)
        self._check_answers(parts)
        self._share = 1.0
        predict: Any = super().prediction_step
        found = [predict(model, part, *places, **options) for part in parts]
        if len(parts) == 1:
            return found[0]
        # Where the model divides by the tokens of all processes' parts, these weigh the parts.
        shares = _shares_of(summed(_label_tokens(parts)) if self.model_accepts_loss_kwargs else _label_tokens(parts))
        return torch.stack([loss * share for (loss, *_), share in zip(found, shares, strict=True)]).sum(), None, None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: ``LanguageModelFlops`` counts instead, and transformers visits all modules in each step for this.

        That takes 4 to 7 ms of host time with DeepSeek-OCR-2 on an H100, docs/benchmarks/training/run-12-profile.json.
        """
        return 0

    def _shares(self, parts: list[dict[str, Any]], tokens: torch.Tensor | int | None) -> list[float]:
        by_the_step = self.model_accepts_loss_kwargs and tokens is not None
        return [1.0] * len(parts) if by_the_step or len(parts) == 1 else _shares_of(_label_tokens(parts))

    def _count(self, inputs: dict[str, Any]) -> None:
        lengths = inputs["attention_mask"].sum(dim=1)
        last_labels = inputs["labels"].gather(1, lengths[:, None] - 1)
        end_token = self._collator.processor.tokenizer.eos_token_id
        self._measurements.truncated_samples += int((last_labels != end_token).sum())
        rows = lengths.tolist()
        self._measurements.count(rows, inputs["input_ids"].shape[1], self._flops.of_rows(rows))

    def _check_answers(self, parts: list[dict[str, Any]]) -> None:
        # All processes fail together; otherwise the others would wait for gradients that never come.
        if in_any_process(not all(every_page_has_an_answer(part) for part in parts)):
            raise UserError(
                f"{self._collator.max_length} tokens are used up by a page's picture and prompt, none is left for text",
                where="max_length",
                mend="raise it, or prepare smaller pages; nothing was written",
            )


def _label_tokens(parts: list[dict[str, Any]]) -> list[int]:
    """Return the number of label tokens in each part; a causal loss predicts no first token."""
    return [int((part["labels"][:, 1:] != IGNORED_LABEL).sum()) for part in parts]


def _shares_of(counts: Sequence[float]) -> list[float]:
    return [count / sum(counts) for count in counts]
