"""Pages as training batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import ProcessorMixin

from components.shared.image_text_inputs import IGNORED_LABEL, training_inputs
from components.shared.model_families import ModelFamily
from components.shared.shard_reader import Sample
from components.train.rope_positions import RopePositions


@dataclass
class PageCollator:
    """Turns samples into right-padded tensors whose labels are the pages' texts."""

    processor: ProcessorMixin
    family: ModelFamily
    max_length: int
    rope_positions: RopePositions | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        batch = training_inputs(
            self.processor,
            self.family,
            [sample.image for sample in samples],
            [sample.instruction for sample in samples],
            [sample.text for sample in samples],
            self.max_length,
        )
        # Positions cannot be found for a picture that max_length cut; the trainer refuses such a batch in words,
        # which an error raised here would lose on its way out of a data-loader process.
        if self.rope_positions and every_page_has_an_answer(batch):
            self.rope_positions.add_to(batch)
        return batch


def every_page_has_an_answer(batch: dict[str, Any]) -> bool:
    """Return whether ``max_length`` left each page at least one token of its answer."""
    return bool((batch["labels"] != IGNORED_LABEL).any(dim=1).all())
