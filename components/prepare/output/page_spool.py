"""Encoded pages on disk, written in the order of drawing and read in the order of the shards.

A spool is a folder with a ``pages-<n>.bin`` for each process that drew, which holds pictures and metadata one after
the other, and ``index.bin`` with 41 bytes per page. Only the index is held in memory: 41 MB for a million pages, and
about 50 MB more during sorting.
"""

from array import array
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

SPLITS: tuple[Split, ...] = get_args(Split)
_MAGIC = b"deepsynth pages3"
ROW = np.dtype(
    [
        ("order", "<u8"),
        ("offset", "<u8"),
        ("document", "<u4"),
        ("image", "<u4"),  # bytes
        ("metadata", "<u4"),  # bytes
        ("crc", "<u4"),  # of image and metadata
        ("rank", "<u4"),
        ("letters", "<u2"),  # their height in tenths of a pixel; 0: not measured
        ("file", "<u2"),
        ("split", "u1"),
    ]
)
_ARRAY_CODES = {8: "Q", 4: "I", 2: "H", 1: "B"}
_MOST_FILES = 2**16
MEND = "draw these pages again"


@dataclass(frozen=True)
class StoredPage:
    """A page's position in one of a spool's files; sizes in bytes, ``crc`` over image and metadata."""

    file: int
    offset: int
    image: int
    metadata: int
    crc: int


TENTHS_OF_A_PIXEL = 10
_MOST_TENTHS = 2**16 - 1


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
        self._columns = {name: array(_ARRAY_CODES[ROW[name].itemsize]) for name in ROW.names or ()}
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

    def add(
        self,
        order: int,
        split: Split,
        document: int,
        stored: StoredPage,
        rank: int = 0,
        letter_height: float | None = None,
    ) -> None:
        """Add a page of document number ``document`` (below 2**32).

        Args:
            order: from 0 to 2**64 - 1; pages are read in this order.
            rank: from 0 to 2**32 - 1; a limit keeps pages of lower rank first.
            letter_height: pixels; None if it was not measured.

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
            rank,
            min(max(1, round(letter_height * TENTHS_OF_A_PIXEL)), _MOST_TENTHS) if letter_height is not None else 0,
            stored.file,
            SPLITS.index(split),
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
        index = np.empty(len(self._columns["order"]), ROW)
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


def _read_index(folder: Path) -> npt.NDArray[Any]:
    path = folder / INDEX_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"not a finished page spool ({error.strerror})", where=str(path), mend=MEND) from error
    rows = content[len(_MAGIC) : -4]
    whole = content.startswith(_MAGIC) and len(content) >= len(_MAGIC) + 4 and len(rows) % ROW.itemsize == 0
    if not whole or isal_zlib.crc32(rows).to_bytes(4, "little") != content[-4:]:
        raise UserError("the index of the page spool is damaged", where=str(path), mend=MEND)
    index = np.frombuffer(rows, ROW)
    for number in np.unique(index["file"]).tolist():
        _check_file(pages_file(folder, number), index[index["file"] == number])
    return index


def _check_file(path: Path, rows: npt.NDArray[Any]) -> None:
    named = int((rows["image"].astype(np.int64) + rows["metadata"]).sum())
    try:
        stored = path.stat().st_size
    except OSError as error:
        raise UserError(f"a page spool's file is missing ({error.strerror})", where=str(path), mend=MEND) from error
    if named != stored:
        raise UserError(f"the file holds {stored} bytes, but its index says {named}", where=str(path), mend=MEND)
