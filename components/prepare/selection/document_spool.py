"""Documents on disk that are not numbered yet, read back in order or by position."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


class DocumentSpool:
    """An append-only file of lines; uses eight bytes of memory per line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._ends = array("Q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, line: bytes) -> None:
        """Add a line; its place is the number of lines before it."""
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def line(self, place: int) -> bytes:
        """Return the line at ``place``."""
        self._file.flush()
        start, end = self._ends[place : place + 2]
        return os.pread(self._file.fileno(), end - start, start)

    def lines(self) -> Iterator[bytes]:
        """Yield all lines in order; do not append afterwards."""
        self._file.seek(0)
        yield from self._file
