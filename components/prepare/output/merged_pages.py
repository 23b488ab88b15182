"""Pages of several spools in the order of the shards."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from components.prepare.output.page_spool import MEND, ROW, SPLITS, TENTHS_OF_A_PIXEL, PageSpool, pages_file
from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

PageKey = tuple[int, int]
"""Rank and order: a limit keeps the pages with the lowest keys."""


@dataclass(frozen=True)
class SpooledPage:
    """A page as encoded picture and JSON metadata, with its sort keys."""

    order: int
    document: int
    image: bytes
    metadata: bytes


class MergedPages:
    """Pages of one split in several spools, in the order of the shards; iterating reads them.

    A slice is also a ``MergedPages`` and small enough to send to another process. The result does not depend on how
    documents are divided among spools and files, as long as the pages of one document are in one file.
    """

    def __init__(self, paths: list[Path], files: npt.NDArray[np.uint32], rows: npt.NDArray[Any]) -> None:
        self._paths = paths
        self._files = files
        self._rows = rows

    @property
    def documents(self) -> int:
        """The number of documents that the pages belong to."""
        return len(np.unique(self._rows["document"]))

    @property
    def highest_key(self) -> PageKey | None:
        """The key of the page that a lower limit would leave out first; None if there are no pages."""
        if not len(self._rows):
            return None
        rank = self._rows["rank"].max()
        return int(rank), int(self._rows["order"][self._rows["rank"] == rank].max())

    @property
    def letter_heights(self) -> npt.NDArray[np.float64]:
        """The measured heights of letters in pixels, in the order of the pages; NaN where there is none."""
        tenths = self._rows["letters"]
        return np.where(tenths > 0, tenths / TENTHS_OF_A_PIXEL, np.nan)

    def by_document(self, positions: npt.NDArray[np.intp]) -> "MergedPages":
        """Return the pages at these positions in the order of their documents."""
        ordered = positions[np.argsort(self._rows["document"][positions], kind="stable")]
        return MergedPages(self._paths, self._files[ordered], self._rows[ordered])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> "MergedPages":
        return MergedPages(self._paths, self._files[part], self._rows[part])

    def __iter__(self) -> Iterator[SpooledPage]:
        with ExitStack() as opened:
            descriptors: dict[int, int] = {}
            for file, row in zip(self._files.tolist(), self._rows, strict=True):
                if file not in descriptors:
                    stream = opened.enter_context(self._paths[file].open("rb", buffering=0))
                    descriptors[file] = stream.fileno()
                yield _read_page(descriptors[file], row, self._paths[file])


def merged(spools: Sequence[PageSpool], split: Split, limit: int | None = None) -> MergedPages:
    """Return the pages of ``split`` in all spools, sorted by order and document.

    Args:
        limit: at most so many: those of the lowest rank, and of the last rank those of the lowest order.

    Raises:
        UserError: while iterating, if a page differs from what was written.
        ValueError: the limit is below 0.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    paths: list[Path] = []
    parts, files = [np.empty(0, ROW)], [np.empty(0, np.uint32)]
    for spool in spools:
        rows = spool.index[spool.index["split"] == SPLITS.index(split)]
        parts.append(rows)
        files.append(rows["file"].astype(np.uint32) + np.uint32(len(paths)))
        paths += [pages_file(spool.folder, number) for number in range(int(rows["file"].max(initial=0)) + 1)]
    all_rows, all_files = np.concatenate(parts), np.concatenate(files)
    # lexsort is stable: pages of one document with equal keys stay in the order of writing.
    kept = np.lexsort((all_rows["document"], all_rows["order"]))
    if limit is not None and limit < len(kept):
        ranks = all_rows["rank"][kept]
        kept = kept[np.sort(np.argsort(ranks, kind="stable")[:limit])]
    return MergedPages(paths, all_files[kept], all_rows[kept])


def _read_page(descriptor: int, row: Any, path: Path) -> SpooledPage:
    order, offset, document, image, metadata, crc = row.item()[:6]
    content = os.pread(descriptor, image + metadata, offset)
    if isal_zlib.crc32(content) != crc:
        raise UserError(f"the page at byte {offset} differs from what was written", where=str(path), mend=MEND)
    return SpooledPage(order, document, content[:image], content[image:])
