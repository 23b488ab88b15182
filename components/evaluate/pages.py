"""The pages that are scored: every one, or a seeded draw."""

import io
import random

from PIL import Image, UnidentifiedImageError

from components.shared.dataset_manifest import DatasetManifest
from components.shared.shard_reader import Sample, ShardDataset


class EvaluationPages:
    """The chosen pages of a dataset, in the shards' order.

    Args:
        dataset: the split that is read.
        max_pages: at most so many, drawn without regard to document or length; None for all.
        seed: of that draw.
    """

    def __init__(self, dataset: ShardDataset, max_pages: int | None, seed: int) -> None:
        self._dataset = dataset
        every = range(len(dataset))
        drawn = every if max_pages is None or max_pages >= len(every) else random.Random(seed).sample(every, max_pages)
        self._indices = sorted(drawn)

    @property
    def manifest(self) -> DatasetManifest:
        return self._dataset.manifest

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Sample:
        return self._dataset[self._indices[position]]

    def by_expected_length(self) -> list[int]:
        """Return the positions, those first that take longest to read.

        The largest picture comes first, so that a batch that does not fit into memory does; among pictures of one
        size the one of more encoded bytes, which grow with the text on it. Pages of one batch then take alike long.
        The label's length is not used: a model in service does not know it either.
        """
        sizes = [_area_and_bytes(self[position]) for position in range(len(self))]
        return sorted(range(len(self)), key=lambda position: sizes[position], reverse=True)


def _area_and_bytes(page: Sample) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(page.image_bytes)) as image:  # reads the header only
            return image.width * image.height, len(page.image_bytes)
    except (UnidentifiedImageError, OSError):
        return 0, 0  # the page's failure is recorded when it is read for good
