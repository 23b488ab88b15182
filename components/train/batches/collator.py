"""Turns pages into training batches."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from components.shared.datasets.shard_reader import Sample
from components.shared.models.model_families import ModelFamily
from components.shared.reading.image_text_inputs import IGNORED_LABEL, training_inputs
from components.train.batches.rope_positions import RopePositions
from components.train.config import TrainConfig
from components.train.vision.features_store import (
    BROUGHT_FEATURES,
    CorruptFeaturesError,
    FeatureStore,
    PageFeatures,
    picture_digest,
)

log = logging.getLogger(__name__)

_GRANULE_ON_GPU = 64  # tokens
_PAGES, _PARTS = "pages", "micro_batches"
_UNSEEN = Image.new("RGB", (1, 1))


@dataclass
class PageCollator:
    """Turns samples into right-padded tensors whose labels are the pages' texts.

    With ``features``, pictures whose features are stored are not decoded. All tensors but the pixels stay the same:
    ``pixel_values`` is empty, and ``vision_features`` contains ``features`` (stored tokens of all pages, hidden size),
    ``tokens`` (their number for each page, 0 if not stored), ``pictures`` (the image processor's output for the pages
    that are not stored) and ``corrupt`` (the number of pages whose stored file is damaged).

    More samples than ``micro_batch`` become a batch in parts, see ``parts_of``; with ``longest_first``, pages with the
    longest texts are in the first part.
    """

    processor: ProcessorMixin
    family: ModelFamily
    max_length: int
    rope_positions: RopePositions | None = None
    features: FeatureStore | None = None
    pad_to_multiple_of: int = 1
    micro_batch: int | None = None
    longest_first: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if self.longest_first:
            samples = sorted(samples, key=lambda sample: len(sample.text.encode()), reverse=True)
        size = self.micro_batch or len(samples)
        if len(samples) <= size:
            return self._batch(samples)
        parts = [self._batch(samples[start : start + size]) for start in range(0, len(samples), size)]
        # transformers reads the number of pages of an evaluation's batch from its first tensor.
        return {_PAGES: torch.arange(len(samples)), _PARTS: parts}

    def _batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        if self.features is None:
            batch = self._inputs(self.processor, samples, [sample.image for sample in samples])
        else:
            batch = self._inputs_with_features(self.features, samples)
        # There are no positions for a picture that max_length cut off. The trainer rejects such a batch: an error
        # raised here would lose its message on the way out of a data-loader process.
        if self.rope_positions and every_page_has_an_answer(batch):
            self.rope_positions.add_to(batch)
        return batch

    def _inputs(
        self, processor: ProcessorMixin, samples: Sequence[Sample], images: list[Image.Image]
    ) -> dict[str, Any]:
        instructions, texts = [sample.instruction for sample in samples], [sample.text for sample in samples]
        return training_inputs(
            processor, self.family, images, instructions, texts, self.max_length, self.pad_to_multiple_of
        )

    def _inputs_with_features(self, store: FeatureStore, samples: Sequence[Sample]) -> dict[str, Any]:
        known: list[PageFeatures | None] = []
        corrupt = 0
        for sample in samples:
            try:
                known.append(store.read(picture_digest(sample.image_bytes)))
            except CorruptFeaturesError as error:
                log.warning("computed anew at each turn, and stored by the next training: %s", error)
                known.append(None)
                corrupt += 1
        images = [_UNSEEN if page else sample.image for page, sample in zip(known, samples, strict=True)]
        seen = SeenPictures(self.processor.image_processor, known)
        batch = self._inputs(with_image_processor(self.processor, seen), samples, images)
        stored = [page.features for page in known if page]
        batch["pixel_values"] = torch.empty(0)  # present, so that the model calls get_image_features
        batch[BROUGHT_FEATURES] = {
            "features": torch.cat(stored) if stored else torch.empty(0, 0),
            "tokens": [len(page.features) if page else 0 for page in known],
            "pictures": seen.computed,
            "corrupt": corrupt,
        }
        return batch


def parts_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the batches that pass through the model one after the other: ``batch`` itself, or its parts."""
    parts: list[dict[str, Any]] = batch.get(_PARTS) or [batch]
    return parts


def padding_granule(config: TrainConfig) -> int:
    """Return the number of tokens that a batch's length is padded to a multiple of.

    64 on a GPU: on an H200, a step with a new length took 0.254 s (Unsloth 0.270) and one with a known length 0.162
    (0.144), docs/benchmarks/training/run-8-16-bit.json. Without padding, batches of pages of 1,000 tokens nearly all
    have different lengths.
    """
    return config.pad_to_multiple_of or (_GRANULE_ON_GPU if torch.cuda.is_available() else 1)


class SeenPictures:
    """An image processor that processes only unknown pictures and returns stored outputs for the others.

    The surrounding processor expands the image tokens of all pictures by its own rules. After a call, ``computed`` is
    the real image processor's output for the unknown pictures, empty if there are none.
    """

    def __init__(self, image_processor: Any, known: Sequence[PageFeatures | None]) -> None:
        self._image_processor = image_processor
        self._known = known
        self.computed: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Sequence[Any], **options: Any) -> BatchFeature:
        unknown = [image for image, page in zip(images, self._known, strict=True) if page is None]
        if unknown:
            self.computed = dict(self._image_processor(unknown, **options | {"return_tensors": "pt"}))
        rows = iter(rows_without_pixels(self.computed, len(unknown)))
        inputs = [page.inputs if page else next(rows) for page in self._known]
        return BatchFeature({name: torch.cat([row[name] for row in inputs]) for name in inputs[0]})


def rows_without_pixels(image_inputs: dict[str, torch.Tensor], pictures: int) -> list[dict[str, torch.Tensor]]:
    """Return an image processor's outputs for each picture, except the pixels."""
    said = {name: values for name, values in image_inputs.items() if not name.startswith("pixel_values")}
    return [{name: values[row : row + 1] for name, values in said.items()} for row in range(pictures)]


def with_image_processor(processor: ProcessorMixin, image_processor: Any) -> ProcessorMixin:
    """Return a shallow copy of ``processor`` with another image processor."""
    other: Any = copy.copy(processor)
    other.image_processor = image_processor
    return other


def every_page_has_an_answer(batch: dict[str, Any]) -> bool:
    """Return whether ``max_length`` left each page at least one token of its answer."""
    return bool((batch["labels"] != IGNORED_LABEL).any(dim=1).all())
