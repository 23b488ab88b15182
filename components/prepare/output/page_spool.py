"""Encoded pages on disk: written in the order they come, read in the order of the shards.

A spool is a folder with ``pages.bin``, the pictures and metadata one after another, and ``index.bin``, 25 bytes a page.
Only the index is held in memory. Measured for a million pages: 71 MB more at the end of writing, 140 MB more at the
peak of sorting.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, get_args

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from components.shared.dataset_manifest import Split
from components.shared.errors import UserError

PAGES_FILE = "pages.bin"
INDEX_FILE = "index.bin"

_SPLITS: tuple[Split, ...] = get_args(Split)
_MAGIC = b"deepsynth pages1"
_ROW = np.dtype(
    [
        ("order", "<u8"),
        ("document", "<u4"),
        ("image", "<u4"),  # bytes
        ("metadata", "<u4"),  # bytes
        ("crc", "<u4"),  # of image and metadata
        ("split", "u1"),
    ]
)
_PACKED_ROW = struct.Struct("<QIIIIB")
_MEND = "draw these pages again"


@dataclass(frozen=True)
class SpooledPage:
    """A page as encoded picture and JSON metadata, with what it is sorted by."""

    order: int
    document: int
    image: bytes
    metadata: bytes


class PageSpool:
    """Pages on disk, appended by one process; after ``close`` they can be read here, or elsewhere after ``open``.

    As a context manager it is closed at the block's end; where the block ends with an error no index is written, and
    the spool cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        self.folder = folder
        self._rows = bytearray()
        self._stream: BinaryIO | None = (folder / PAGES_FILE).open("wb")
        self._index: npt.NDArray[Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return a closed spool for reading.

        Raises:
            UserError: no spool, one that was not closed, or a damaged one.
        """
        spool = cls.__new__(cls)
        spool.folder, spool._rows, spool._stream = folder, bytearray(), None
        spool._index = _read_index(folder)
        return spool

    def append(self, order: int, split: Split, document: int, image: bytes, metadata: bytes) -> None:
        """Add a page of document number ``document`` (below 2**32); ``order`` is from 0 to 2**64 - 1.

        Raises:
            OverflowError: a number outside its range, or a picture or metadata of 4 GiB.
            RuntimeError: the spool is closed.
        """
        if self._stream is None:
            raise RuntimeError("the spool is closed")
        crc = isal_zlib.crc32(metadata, isal_zlib.crc32(image))
        try:
            row = _PACKED_ROW.pack(order, document, len(image), len(metadata), crc, _SPLITS.index(split))
        except struct.error as error:
            raise OverflowError(f"order {order}, document {document}, {len(image)} bytes: {error}") from error
        self._stream.write(image)
        self._stream.write(metadata)
        self._rows += row

    def close(self) -> None:
        """Write the index; a second time does nothing."""
        if self._stream is None:
            return
        self._stream.close()
        self._stream = None
        content = bytes(self._rows)
        self._rows = bytearray()
        partial = self.folder / f"{INDEX_FILE}.partial"
        partial.write_bytes(_MAGIC + content + isal_zlib.crc32(content).to_bytes(4, "little"))
        partial.replace(self.folder / INDEX_FILE)
        self._index = np.frombuffer(content, _ROW)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def index(self) -> npt.NDArray[Any]:
        """One row a page, in the order of writing: order, document, image and metadata (bytes), crc, split.

        Raises:
            RuntimeError: the spool is not closed.
        """
        if self._index is None:
            raise RuntimeError("the spool is still being written, or ended with an error")
        return self._index

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(pages,) Where each page begins in the file, in bytes."""
        sizes = self.index["image"].astype(np.int64) + self.index["metadata"]
        return np.cumsum(sizes) - sizes


class MergedPages:
    """The pages of one split in several spools, sorted by order, document and place in the spool.

    The counts are known without reading a page; iterating reads them, as often as wanted. How the documents were
    divided among the spools does not show, as long as the pages of one document are in one spool.

    Attributes:
        available: pages of the split in all spools.
        pages: pages that are kept: the ``limit`` lowest.
        documents: distinct documents among the kept pages.
        highest_order: the highest order that is kept, where the limit leaves pages out or could; None: all are kept.
    """

    def __init__(self, spools: Sequence[PageSpool], split: Split, limit: int | None) -> None:
        rows = [np.flatnonzero(spool.index["split"] == _SPLITS.index(split)) for spool in spools]
        orders = _joined([spool.index["order"][chosen] for spool, chosen in zip(spools, rows, strict=True)], np.uint64)
        documents = _joined(
            [spool.index["document"][chosen] for spool, chosen in zip(spools, rows, strict=True)], np.uint32
        )
        # lexsort is stable: what is equal in both stays in the spools' order.
        kept = np.lexsort((documents, orders))[:limit]
        self._spools = list(spools)
        self._spool_numbers = np.repeat(np.arange(len(spools), dtype=np.uint32), [len(chosen) for chosen in rows])[kept]
        self._rows = _joined(rows, np.int64)[kept]
        self.available = len(orders)
        self.pages = len(kept)
        self.documents = len(np.unique(documents[kept]))
        full = limit is not None and 0 < limit == self.pages
        self.highest_order = int(orders[kept[-1]]) if full else None

    def __len__(self) -> int:
        return self.pages

    def __iter__(self) -> Iterator[SpooledPage]:
        with ExitStack() as opened:
            streams = [
                opened.enter_context((spool.folder / PAGES_FILE).open("rb", buffering=0)) for spool in self._spools
            ]
            for number, row in zip(self._spool_numbers, self._rows, strict=True):
                yield _read_page(self._spools[number], streams[number].fileno(), int(row))


def merged(spools: Sequence[PageSpool], split: Split, limit: int | None = None) -> MergedPages:
    """Return the pages of ``split`` over all spools in the shards' order, only the ``limit`` lowest.

    Raises:
        UserError: while iterating, where a page is not what was written.
        ValueError: a limit below 0.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"a limit is 0 or more, not {limit}")
    return MergedPages(spools, split, limit)


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _read_page(spool: PageSpool, descriptor: int, row: int) -> SpooledPage:
    page = spool.index[row]
    size = int(page["image"])
    content = os.pread(descriptor, size + int(page["metadata"]), int(spool.starts[row]))
    if isal_zlib.crc32(content) != page["crc"]:
        raise UserError(f"page {row} is not what was written", where=str(spool.folder / PAGES_FILE), mend=_MEND)
    return SpooledPage(int(page["order"]), int(page["document"]), content[:size], content[size:])


def _read_index(folder: Path) -> npt.NDArray[Any]:
    path = folder / INDEX_FILE
    try:
        content = path.read_bytes()
        stored = (folder / PAGES_FILE).stat().st_size
    except OSError as error:
        raise UserError(
            f"not a finished page spool ({error.strerror})", where=str(error.filename), mend=_MEND
        ) from error
    rows = content[len(_MAGIC) : -4]
    whole = content.startswith(_MAGIC) and len(content) >= len(_MAGIC) + 4 and len(rows) % _ROW.itemsize == 0
    if not whole or isal_zlib.crc32(rows).to_bytes(4, "little") != content[-4:]:
        raise UserError("the index of the page spool is damaged", where=str(path), mend=_MEND)
    index = np.frombuffer(rows, _ROW)
    named = int(index["image"].sum(dtype=np.int64) + index["metadata"].sum(dtype=np.int64))
    if named != stored:
        raise UserError(
            f"the page spool holds {stored} bytes and its index names {named}",
            where=str(folder / PAGES_FILE),
            mend=_MEND,
        )
    return index
