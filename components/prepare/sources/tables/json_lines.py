"""Reads documents from JSON lines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import AnyStr

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
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

_HEAD_BYTES = 8
_BUFFER_BYTES = 2**20


def read_jsonl(path: Path, name: str, reading: SourceReading) -> Iterator[Document | Unreadable]:
    """Yield one document per non-blank line; ids are ``name:LINE``, counted from 1."""
    yield from documents_of_rows(jsonl_rows(path, name, reading), name, printable(f"{path}, line"), reading)


def jsonl_rows(path: Path, name: str, reading: SourceReading) -> NumberedRows:
    """Yield the object of each non-blank line with the line's number."""
    number = 0
    try:
        with path.open("rb") as head:
            check_start(head.read(_HEAD_BYTES), reading.settings.encoding)
        for number, line in _lines(path, reading.settings.encoding):
            yield number, _row(line, f"{name}:{number}", printable(f"{path}, line {number}"), reading)
    except WrongEncodingError as error:
        yield 1, Unreadable(name, str(error), "document_wrong_encoding")
    except UnicodeError as error:
        problem = f"from line {number + 1} on not {reading.settings.encoding} ({error})"
        yield number + 1, unreadable(reading.settings, f"{name}:{number + 1}", problem, where=printable(str(path)))


def _row(line: bytes | str | None, source_id: str, where: str, reading: SourceReading) -> Row | Unreadable:
    if line is None:
        return Unreadable(source_id, f"a line of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
    try:
        return json_row(line)
    except RowError as error:
        return unreadable(reading.settings, source_id, str(error), where=where)


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, bytes | str | None]]:
    """Yield each non-blank line with its number from 1; None instead of one that is too long.

    UTF-8 is left to the JSON parser, so that a line in another encoding is only lost alone.
    """
    if is_utf8(encoding):
        with path.open("rb") as stream:
            yield from _limited(stream.readline, b"\n")
    else:
        with path.open(encoding=encoding, newline="\n") as texts:
            yield from _limited(texts.readline, "\n")


def _limited(readline: Callable[[int], AnyStr], end: AnyStr) -> Iterator[tuple[int, AnyStr | None]]:
    number = 0
    while line := readline(MAX_DOCUMENT_BYTES):
        number += 1
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(end):
            while line and not line.endswith(end):  # skip the rest in chunks
                line = readline(_BUFFER_BYTES)
            yield number, None
        elif not line.isspace():
            yield number, line
