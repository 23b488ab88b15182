"""Reads documents from JSON lines."""

from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import AnyStr

from components.prepare.documents.document import Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import ROWS_OF_A_PART, RowItem, TableStart
from components.prepare.documents.text_decoding import WrongEncodingError, check_start, is_utf8
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.tables.rows import (
    MAX_DOCUMENT_BYTES,
    NumberedRows,
    Row,
    RowError,
    documents_of_rows,
    json_row,
)
from components.shared.foreign_files.reading_child import part_read

_HEAD_BYTES = 8
_BUFFER_BYTES = 2**20


class _NotRead(Enum):
    """A line that is passed in pieces instead of being read."""

    TOO_LONG = "too long"
    DROPPED = "dropped"


def read_jsonl(path: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    """Yield one document per non-blank line; ids are ``name:LINE``, counted from 1."""
    yield from documents_of_rows(jsonl_rows(path, name, reading, start), name, printable(f"{path}, line"), reading)


def jsonl_rows(path: Path, name: str, reading: SourceReading, start: TableStart) -> NumberedRows:
    """Yield the object of each non-blank line with the line's number."""
    number = start.passed
    try:
        with path.open("rb") as head:
            check_start(head.read(_HEAD_BYTES), reading.settings.encoding)
        for number, line in _lines(path, reading.settings.encoding, start):
            source_id, place = f"{name}:{number}", printable(f"{path}, line {number}")
            if line is _NotRead.DROPPED:
                yield number, start.dropped(reading.settings, source_id, place)
            else:
                yield number, _row(line, source_id, place, reading)
    except WrongEncodingError as error:
        yield 1, Unreadable(name, str(error), "document_wrong_encoding")
    except UnicodeError as error:
        problem = f"from line {number + 1} on not {reading.settings.encoding} ({error})"
        yield number + 1, unreadable(reading.settings, f"{name}:{number + 1}", problem, where=printable(str(path)))


def _row(line: bytes | str | _NotRead, source_id: str, where: str, reading: SourceReading) -> Row | Unreadable:
    if isinstance(line, _NotRead):
        return Unreadable(source_id, f"a line of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
    try:
        return json_row(line)
    except RowError as error:
        return unreadable(reading.settings, source_id, str(error), where=where)


def _lines(path: Path, encoding: str, start: TableStart) -> Iterator[tuple[int, bytes | str | _NotRead]]:
    """Yield each non-blank line with its number from 1, or why it is not read.

    UTF-8 is left to the JSON parser, so that a line in another encoding is only lost alone.
    """
    if is_utf8(encoding):
        with path.open("rb") as stream:
            yield from _limited(stream.readline, b"\n", start)
    else:
        with path.open(encoding=encoding, newline="\n") as texts:
            yield from _limited(texts.readline, "\n", start)


def _limited(
    readline: Callable[[int], AnyStr], end: AnyStr, start: TableStart
) -> Iterator[tuple[int, AnyStr | _NotRead]]:
    number = 0
    while number < start.passed and _pass_line(readline, end) is not None:
        number += 1
        if number % ROWS_OF_A_PART == 0:
            part_read()
    if start.problem:
        blank: bool | None = True
        while blank:
            blank = _pass_line(readline, end)
            number += 1
        yield number, _NotRead.DROPPED
    while line := readline(MAX_DOCUMENT_BYTES):
        number += 1
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(end):
            _pass_line(readline, end)
            yield number, _NotRead.TOO_LONG
        elif not line.isspace():
            yield number, line


def _pass_line(readline: Callable[[int], AnyStr], end: AnyStr) -> bool | None:
    """Read to the end of a line in pieces; return whether it is blank, None at the end of the file."""
    blank: bool | None = None
    while piece := readline(_BUFFER_BYTES):
        blank = blank is not False and piece.isspace()
        if piece.endswith(end):
            break
    return blank
