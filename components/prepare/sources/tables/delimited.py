"""Reads documents from .csv and .tsv files with a header row."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from components.prepare.documents.document import Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.text_decoding import WrongEncodingError, check_start, is_utf8
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.tables.delimited_passing import RowPasser
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES, NumberedRows, documents_of_rows, repeated_column

_HEAD_BYTES = 65_536
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}


def read_delimited(path: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    """Yield one document per row after the header; ids are ``name:ROW``, counted from 1 without the header.

    The delimiter of a .csv file is the first of comma, semicolon, tab and bar that separates the named columns in the
    header. Quoting is as in RFC 4180; a field may contain line breaks. The part of a file behind a field that is never
    closed, or is longer than a document may be, is one marker.
    """
    rows = delimited_rows(path, name, reading, start)
    yield from documents_of_rows(rows, name, printable(f"{path}, row"), reading)


def delimited_rows(
    path: Path, name: str, reading: SourceReading, start: TableStart, more: Sequence[str] = ()
) -> NumberedRows:
    """Yield the rows after the header with their numbers from 1; columns in ``more`` are used like the named ones."""
    where, number = printable(str(path)), start.passed
    try:
        with path.open("rb") as head:
            check_start(head.read(_HEAD_BYTES), reading.settings.encoding)
        with _opened(path, reading.settings.encoding) as stream:
            lines = _lines(stream)
            header, delimiter = _header(next(lines, ""), _DELIMITERS[path.suffix.lower()], reading.columns)
            if problem := repeated_column(header, [*reading.columns, *more]):
                yield 1, unreadable(reading.settings, name, problem, where=where, mend="rename one of them")
                return
            passer = RowPasser(stream, delimiter)
            passer.pass_rows(start.passed)
            if start.problem:
                number += passer.pass_next_that_is_not_blank()
                yield number, start.dropped(reading.settings, f"{name}:{number}", f"{where}, row {number}")
            for fields in csv.reader(lines, delimiter=delimiter, strict=True):
                number += 1
                if len(fields) > len(header):
                    problem = f"{len(fields)} fields, the header has {len(header)}"
                    place = f"{where}, row {number}"
                    yield number, unreadable(reading.settings, f"{name}:{number}", problem, where=place)
                elif fields:
                    yield number, {column: _value(field) for column, field in zip(header, fields, strict=False)}
    except WrongEncodingError as error:
        yield 1, Unreadable(name, str(error), "document_wrong_encoding")
    except (csv.Error, UnicodeError) as error:
        problem = f"the rows from {number + 1} on cannot be read ({error})"
        yield number + 1, unreadable(reading.settings, f"{name}:{number + 1}", problem, where=where)


def _opened(path: Path, encoding: str) -> TextIO:
    # Bytes that are not UTF-8 are kept, so that only the row that has them is lost.
    utf8 = is_utf8(encoding)
    return path.open(
        encoding="utf-8-sig" if utf8 else encoding, errors="surrogateescape" if utf8 else "strict", newline=""
    )


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        if len(line) == MAX_DOCUMENT_BYTES:
            raise csv.Error(f"a line of more than {MAX_DOCUMENT_BYTES} characters")
        yield line


def _header(first: str, delimiters: str, columns: list[str]) -> tuple[list[str], str]:
    """Return the columns that the first line names, and the delimiter."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in delimiters}
    fitting = [delimiter for delimiter, header in headers.items() if set(columns) <= set(header)]
    delimiter = (fitting or [max(delimiters, key=lambda one: len(headers[one]))])[0]
    return headers[delimiter], delimiter


def _value(field: str) -> str | bytes:
    """Return bytes for a field that is not UTF-8."""
    try:
        field.encode("utf-8")
    except UnicodeEncodeError:
        return field.encode("utf-8", "surrogateescape")
    return field
