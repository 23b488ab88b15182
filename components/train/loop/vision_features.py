"""Computes the frozen vision encoder's output once per page and reuses it in later epochs and later trainings.

Pages do not change between epochs: any augmentation is already in the shards. Before the first step, one pass computes
the features that are not stored yet. After that, no picture is preprocessed and no vision encoder runs, except for
pages that did not fit into the bounded space.
"""

import functools
import logging
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset
from transformers import ProcessorMixin

from components.shared.datasets.shard_reader import Sample
from components.shared.models.model_families import ModelFamily
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.telemetry.progress import track
from components.train.backends.protocol import TrainableModel
from components.train.batches.collator import PageCollator, SeenPictures, rows_without_pixels, with_image_processor
from components.train.batches.data_workers import start_worker
from components.train.config import TrainConfig
from components.train.loop.held_out_reading import undisturbed_training
from components.train.loop.measurements import TrainingMeasurements
from components.train.processes.distributed import process_count, rank, summed, wait_for_all
from components.train.vision.features_digest import check_features_can_be_kept, vision_digest
from components.train.vision.features_serving import ServedFeatures
from components.train.vision.features_store import FeatureStore, PageFeatures, picture_digest
from components.train.vision.frozen_vision import parts_before_the_language_model

log = logging.getLogger(__name__)

_PAGES_AT_ONCE = 8  # at most a step's batch, and few enough that this pass does not set the training's memory peak


@contextmanager
def kept_vision_features(
    trainer: Any, trainable: TrainableModel, config: TrainConfig, measurements: TrainingMeasurements
) -> Iterator[None]:
    """Within the block, let ``trainer`` (with a ``PageCollator``) train on stored features if the config asks for it.

    The numbers of pages computed, reused and left out go into ``measurements.vision_features``.

    Raises:
        UserError: the vision part is trained or random, the model returns its features in an unknown way, or the folder
            cannot be written.
    """
    if config.vision_features_dir is None:
        yield
        return
    started = time.perf_counter()
    check_features_can_be_kept(trainable.model)
    autocast = torch.bfloat16 if trainer.args.bf16 else None
    digest = vision_digest(trainable.model, trainable.processor, trainable.family, autocast)
    store = FeatureStore(config.vision_features_dir, digest, int(config.vision_features_gib * 2**30))
    with ServedFeatures(trainable.model) as served:
        with undisturbed_training(trainable.model), _autocast(trainer.args.device, autocast):
            counts = _fill(store, served, trainer, trainable, config)
        counts["seconds"] = time.perf_counter() - started
        log.info("vision features: %s", counts)
        collator: PageCollator = trainer.data_collator
        collator.features, measurements.vision_features = store, counts
        try:
            yield
        finally:
            collator.features = None
        counts["computed_in_steps"], counts["corrupt"] = map(int, summed([served.computed, served.corrupt]))


def _fill(
    store: FeatureStore, served: ServedFeatures, trainer: Any, trainable: TrainableModel, config: TrainConfig
) -> dict[str, float]:
    """Store the missing features of the trainer's pages, each process a part, and return the counts."""
    splits = [split for split in (trainer.train_dataset, trainer.eval_dataset) if split is not None]
    pages: ConcatDataset[Sample] = ConcatDataset(splits)
    positions = _positions_by_picture(pages)
    before = store.entries().keys() & positions.keys()
    wait_for_all()  # no process writes before all have counted
    missing = [position for picture, position in positions.items() if picture not in before]
    mine = missing[rank() :: process_count()]
    store.share(process_count())
    _store_pages(store, served, Subset(pages, mine), trainable, config, trainer.args.device)
    wait_for_all()
    return _counts(store.entries(), before, positions.keys())


def _counts(entries: dict[str, int], before: Set[str], pictures: Set[str]) -> dict[str, float]:
    stored = entries.keys() & pictures
    return {
        "computed": len(stored - before),
        "reused": len(stored & before),
        "left_out": len(pictures) - len(stored),
        "bytes": sum(entries[picture] for picture in stored),
    }


def _positions_by_picture(pages: Sequence[Sample] | Any) -> dict[str, int]:
    """Return one position in ``pages`` for each distinct picture, by its digest."""
    return {picture_digest(pages[position].image_bytes): position for position in range(len(pages))}


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    """Return the mixed-precision context of the Trainer's forward passes."""
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


@torch.no_grad()
def _store_pages(
    store: FeatureStore, served: ServedFeatures, pages: Any, trainable: TrainableModel, config: TrainConfig, device: Any
) -> None:
    """Compute and store the features of ``pages`` until there is no more room."""
    if not len(pages):
        return
    for part in parts_before_the_language_model(trainable.model).values():
        part.eval()
    batch_size = min(config.per_device_train_batch_size, _PAGES_AT_ONCE)
    loader = DataLoader(
        pages,
        batch_size=batch_size,
        num_workers=config.dataloader_num_workers,
        collate_fn=_Pictures(trainable.processor, trainable.family),
        worker_init_fn=functools.partial(start_worker, None),
        # Starting workers draws a random number, which must not come from the training's generator.
        generator=torch.Generator(),
    )
    for digests, image_inputs in track(loader, "vision features", total=len(loader)):
        features = served.features_of({name: values.to(device) for name, values in image_inputs.items()})
        rows = rows_without_pixels(image_inputs, len(digests))
        for digest, values, said in zip(digests, features, rows, strict=True):
            if not store.write(digest, PageFeatures(values.cpu(), said)):
                log.warning(
                    "%s is full: the other pages' features are computed in each step", config.vision_features_dir
                )
                return


class _Pictures:
    """Turns samples into their pictures' digests and the image processor's outputs."""

    def __init__(self, processor: ProcessorMixin, family: ModelFamily) -> None:
        self._processor = processor
        self._family = family

    def __call__(self, samples: Sequence[Sample]) -> tuple[list[str], dict[str, torch.Tensor]]:
        seen = SeenPictures(self._processor.image_processor, [None] * len(samples))
        images, instructions = [sample.image for sample in samples], [sample.instruction for sample in samples]
        generation_inputs(with_image_processor(self._processor, seen), self._family, images, instructions)
        return [picture_digest(sample.image_bytes) for sample in samples], seen.computed
