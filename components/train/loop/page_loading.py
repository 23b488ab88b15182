"""transformers' Trainer with loaders that keep a given page order, leave random states alone, and can be ended."""

import functools
from typing import Any

import torch
from transformers import Trainer

from components.train.batches.data_workers import end_workers, start_worker
from components.train.batches.length_grouping import LengthGroupedPages


class PageLoadingTrainer(Trainer):
    """A Trainer whose loaders do not use the training's random state; ``options`` are the Trainer's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sampler: LengthGroupedPages | None = None
        self._loaders: list[Any] = []

    def take_pages_by(self, sampler: LengthGroupedPages) -> None:
        """Take the training pages in the order of ``sampler``."""
        self._sampler = sampler

    def order_pages_for(self, epoch: int) -> None:
        """Tell the sampler which epoch begins.

        With several processes, accelerate and transformers do not reach the sampler in the epoch in which a training
        is resumed: both stop at the process's batch sampler, which the resumed epoch's batch sampler wraps.
        """
        if self._sampler:
            self._sampler.set_epoch(epoch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler or super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> Any:
        """Return the loader, with its own random generator.

        Starting data workers draws a random number. If it came from the global generator, which dropout uses too, a
        resumed epoch would draw it at another point than an uninterrupted one, and the losses would differ from there.
        """
        loader: Any = super().get_train_dataloader()
        generator = torch.Generator().manual_seed(self.args.seed)
        # accelerate's loader iterates over the one that it wraps; a resumed epoch's loader is made from the outer one.
        for each in (loader, getattr(loader, "base_dataloader", loader)):
            each.generator = generator
            each.worker_init_fn = functools.partial(start_worker, each.worker_init_fn)
            self._loaders.append(each)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of the held-out pages."""
        loader: Any = super().get_eval_dataloader(eval_dataset)
        for each in (loader, getattr(loader, "base_dataloader", loader)):
            each.worker_init_fn = functools.partial(start_worker, None)
            self._loaders.append(each)
        return loader

    def end_data_workers(self) -> None:
        """End the data workers of all loaders, see ``end_workers``."""
        end_workers(self._loaders)
