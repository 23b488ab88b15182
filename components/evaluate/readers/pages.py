"""The pages that are scored: every one, or a seeded draw."""

import random

import cv2
import numpy as np

from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.datasets.shard_reader import Sample, ShardDataset


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
        size the one with the most ink. Pages of one batch then take alike long: 500 pages of 512x512 in fonts of 12
        to 20 pixels, in batches of 16, cost as many steps as 30,978 characters; 43,779 in the dataset's order, and
        21,602 sorted by their labels. Those are not used: a model in service does not know them either. It takes
        2.7 ms a page.
        """
        sizes = [_area_and_ink(self[position]) for position in range(len(self))]
        return sorted(range(len(self)), key=lambda position: sizes[position], reverse=True)


def _area_and_ink(page: Sample) -> tuple[int, int]:
    """Return a page's pixels, and how many of them are nearer to the letters' level than to the paper's."""
    try:
        levels = page.gray
    except OSError:
        return 0, 0  # the page's failure is recorded when it is read for good
    smooth = cv2.boxFilter(levels, -1, (3, 3))  # noise of the paper is no ink
    dark, light = np.percentile(smooth[::4, ::4], [1, 90])
    ink = int(np.count_nonzero(smooth < (dark + light) / 2))
    return levels.size, min(ink, levels.size - ink)  # of light letters on dark paper the paper is the larger part
