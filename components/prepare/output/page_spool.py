"""Encoded pages on disk, written in the order of drawing and read in the order of the shards.

A spool is a folder with a ``pages-<n>.bin`` for each process that drew, which holds pictures and metadata one after
the other, and ``index.bin`` with 35 bytes per page. Only the index is held in memory: 35 MB for a million pages, and
about 50 MB more during sorting.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, get_args

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

INDEX_FILE = "index.bin"

_SPLITS: tuple[Split, ...] = get_args(Split)
_MAGIC = b"deepsynth pages2"
_ROW = np.dtype(
    [
        ("order", "<u8"),
        ("offset", "<u8"),
        ("document", "<u4"),
        ("image", "<u4"),  # bytes
        ("metadata", "<u4"),  # bytes
        ("crc", "<u4"),  # of image and metadata
        ("file", "<u2"),
        ("split", "u1"),
    ]
)
_ARRAY_CODES = {8: "Q", 4: "I", 2: "H", 1: "B"}
_MOST_FILES = 2**16
_MEND = "draw these pages again"


@dataclass(frozen=True)
class SpooledPage:
    """A page as encoded picture and JSON metadata, with its sort keys."""

    order: int
    document: int
    image: bytes
    metadata: bytes


@dataclass(frozen=True)
class StoredPage:
    """A page's position in one of a spool's files; sizes in bytes, ``crc`` over image and metadata."""

    file: int
    offset: int
    image: int
    metadata: int
    crc: int


class PageFile:
    """One of a spool's files, written by one process; it takes the first number that is free.

    Raises:
        FileExistsError: the spool already has 65,536 files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.number, self._stream = _created_file(folder)
        self._size = 0

    def append(self, image: bytes, metadata: bytes) -> StoredPage:
        """Write a page and return its position."""
        crc = isal_zlib.crc32(metadata, isal_zlib.crc32(image))
        stored = StoredPage(self.number, self._size, len(image), len(metadata), crc)
        self._stream.write(image)
        self._stream.write(metadata)
        self._size += len(image) + len(metadata)
        return stored

    def flush(self) -> None:
        """Make what was written visible to other processes."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._stream.close()


def _created_file(folder: Path) -> tuple[int, BinaryIO]:
    for number in range(_MOST_FILES):
        try:
            return number, pages_file(folder, number).open("xb")
        except FileExistsError:
            continue
    raise FileExistsError(f"{folder} holds {_MOST_FILES} files of pages")


def pages_file(folder: Path, number: int) -> Path:
    """Return the path of a spool's file."""
    return folder / f"pages-{number:05d}.bin"


class PageSpool:
    """The index of pages on disk; pages can be read after ``close``, or in another process with ``open``.

    As a context manager it closes at the end of the block. If the block raises an error, no index is written and the
    spool cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        self.folder = folder
        self._columns = {name: array(_ARRAY_CODES[_ROW[name].itemsize]) for name in _ROW.names or ()}
        self._open = True
        self._index: npt.NDArray[Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return a closed spool for reading.

        Raises:
            UserError: the folder holds no spool, or one that was not closed or is damaged.
        """
        spool = cls.__new__(cls)
        spool.folder, spool._columns, spool._open = folder, {}, False
        spool._index = _read_index(folder)
        return spool

    def add(self, order: int, split: Split, document: int, stored: StoredPage) -> None:
        """Add a page of document number ``document`` (below 2**32); ``order`` is from 0 to 2**64 - 1.

        Raises:
            OverflowError: a number is out of range, or the picture or metadata has 4 GiB or more.
            RuntimeError: the spool is closed.
        """
        if not self._open:
            raise RuntimeError("the spool is closed")
        values = (
            order,
            stored.offset,
            document,
            stored.image,
            stored.metadata,
            stored.crc,
            stored.file,
            _SPLITS.index(split),
        )
        length = len(self._columns["order"])
        try:
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)
        except OverflowError:
            for column in self._columns.values():
                del column[length:]
            raise

    def close(self) -> None:
        """Write the index; calling it again does nothing."""
        if not self._open:
            return
        self._open = False
        index = np.empty(len(self._columns["order"]), _ROW)
        for name in list(self._columns):
            index[name] = self._columns.pop(name)
        content = index.tobytes()
        partial = self.folder / f"{INDEX_FILE}.partial"
        partial.write_bytes(_MAGIC + content + isal_zlib.crc32(content).to_bytes(4, "little"))
        partial.replace(self.folder / INDEX_FILE)
        self._index = index

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        self._open = False

    @property
    def index(self) -> npt.NDArray[Any]:
        """One row per page, in the order of writing: order, document, image and metadata (bytes), crc, split.

        Raises:
            RuntimeError: the spool is not closed.
        """
        if self._index is None:
            raise RuntimeError("the spool is not closed, or its block ended with an error")
        return self._index


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
    def highest_order(self) -> int | None:
        """The last page's order; None if there are no pages."""
        return int(self._rows["order"][-1]) if len(self._rows) else None

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
    """Return the pages of ``split`` in all spools, sorted by order and document, at most the ``limit`` lowest.

    Raises:
        UserError: while iterating, if a page differs from what was written.
        ValueError: the limit is below 0.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    paths: list[Path] = []
    parts, files = [np.empty(0, _ROW)], [np.empty(0, np.uint32)]
    for spool in spools:
        rows = spool.index[spool.index["split"] == _SPLITS.index(split)]
        parts.append(rows)
        files.append(rows["file"].astype(np.uint32) + np.uint32(len(paths)))
        paths += [pages_file(spool.folder, number) for number in range(int(rows["file"].max(initial=0)) + 1)]
    all_rows, all_files = np.concatenate(parts), np.concatenate(files)
    # lexsort is stable: pages of one document with equal keys stay in the order of writing.
    kept = np.lexsort((all_rows["document"], all_rows["order"]))[:limit]
    return MergedPages(paths, all_files[kept], all_rows[kept])


def _read_page(descriptor: int, row: Any, path: Path) -> SpooledPage:
    order, offset, document, image, metadata, crc = row.item()[:6]
    content = os.pread(descriptor, image + metadata, offset)
    if isal_zlib.crc32(content) != crc:
        raise UserError(f"the page at byte {offset} differs from what was written", where=str(path), mend=_MEND)
    return SpooledPage(order, document, content[:image], content[image:])


def _read_index(folder: Path) -> npt.NDArray[Any]:
    path = folder / INDEX_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"not a finished page spool ({error.strerror})", where=str(path), mend=_MEND) from error
    rows = content[len(_MAGIC) : -4]
    whole = content.startswith(_MAGIC) and len(content) >= len(_MAGIC) + 4 and len(rows) % _ROW.itemsize == 0
    if not whole or isal_zlib.crc32(rows).to_bytes(4, "little") != content[-4:]:
        raise UserError("the index of the page spool is damaged", where=str(path), mend=_MEND)
    index = np.frombuffer(rows, _ROW)
    for number in np.unique(index["file"]).tolist():
        _check_file(pages_file(folder, number), index[index["file"] == number])
    return index


def _check_file(path: Path, rows: npt.NDArray[Any]) -> None:
    named = int((rows["image"].astype(np.int64) + rows["metadata"]).sum())
    try:
        stored = path.stat().st_size
    except OSError as error:
        raise UserError(f"a page spool's file is missing ({error.strerror})", where=str(path), mend=_MEND) from error
    if named != stored:
        raise UserError(f"the file holds {stored} bytes, but its index says {named}", where=str(path), mend=_MEND)
