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

    def by_area(self) -> list[int]:
        """Return the positions, the largest picture first.

        Pages of one batch then take alike long, and a batch that does not fit into memory comes first. The label's
        length is not used: a model in service does not know it either.
        """
        areas = [_area(self[position]) for position in range(len(self))]
        return sorted(range(len(self)), key=lambda position: (-areas[position], position))


def _area(page: Sample) -> int:
    try:
        with Image.open(io.BytesIO(page.image_bytes)) as image:  # reads the header only
            return image.width * image.height
    except (UnidentifiedImageError, OSError):
        return 0  # the page's failure is recorded when it is read for good
