"""The pages that are scored: all of them, or a seeded sample."""

import random
from collections import Counter

import cv2
import numpy as np

from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.datasets.shard_reader import Sample, ShardDataset


class EvaluationPages:
    """The chosen pages of a dataset, in the shards' order.

    Args:
        dataset: the split that is read.
        max_pages: at most so many, drawn at random: one page of every document before a second one of any; None: all.
        seed: of that draw.
    """

    def __init__(self, dataset: ShardDataset, max_pages: int | None, seed: int) -> None:
        self._dataset = dataset
        whole = max_pages is None or max_pages >= len(dataset)
        self._indices = list(range(len(dataset))) if whole else sorted(_drawn(dataset, seed)[:max_pages])

    @property
    def manifest(self) -> DatasetManifest:
        return self._dataset.manifest

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Sample:
        return self._dataset[self._indices[position]]

    def by_expected_length(self) -> list[int]:
        """Return the positions, those of the slowest pages first.

        Larger pictures come first, so that a batch that does not fit into memory fails at the start; among pictures of
        equal size, those with more ink come first. Pages of one batch then take about equally long: 500 pages of
        512x512 in fonts of 12 to 20 pixels, in batches of 16, cost as many steps as 30,978 characters; 43,779 in the
        dataset's order, 21,602 if sorted by label. Labels are not used, because a model in service has none. Sorting
        takes 2.7 ms a page.
        """
        sizes = [_area_and_ink(self[position]) for position in range(len(self))]
        return sorted(range(len(self)), key=lambda position: sizes[position], reverse=True)


def _drawn(dataset: ShardDataset, seed: int) -> list[int]:
    """Return all positions in random order: first one page of every document, then a second one, and so on."""
    shuffled = random.Random(seed).sample(range(len(dataset)), len(dataset))
    before: Counter[str] = Counter()
    ranks: dict[int, int] = {}
    for position in shuffled:
        document = str(dataset.metadata(position).get("source_id"))
        ranks[position] = before[document]
        before[document] += 1
    return sorted(shuffled, key=ranks.__getitem__)


def _area_and_ink(page: Sample) -> tuple[int, int]:
    """Return a page's pixels, and how many of them are closer to the letters' grey level than to the paper's."""
    try:
        levels = page.gray
    except OSError:
        return 0, 0  # the error is recorded when the page is read
    smooth = cv2.boxFilter(levels, -1, (3, 3))  # paper noise is not ink
    dark, light = np.percentile(smooth[::4, ::4], [1, 90])
    ink = int(np.count_nonzero(smooth < (dark + light) / 2))
    return levels.size, min(ink, levels.size - ink)  # with light letters on dark paper, the paper is the larger part
