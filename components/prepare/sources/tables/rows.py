"""What readers of rows share: the size limit, rows in JSON, and the documents of rows."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.prepare.documents.document import Unreadable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem
from components.prepare.documents.text_decoding import UTF_8, WrongEncodingError, decode_text, is_utf8

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Longer text files, lines and members are not read but counted as ``document_too_long``. This is 64 times the default
of ``max_document_characters``, so the limit only protects memory."""

Row = Mapping[str, Any]
NumberedRows = Iterator[tuple[int, Row | Unreadable]]
"""Rows with their numbers from 1, or markers for unreadable ones; a marker for several rows has the last number."""


class RowError(Exception):
    """A line or member is not a valid row; the message says why."""


def documents_of_rows(rows: NumberedRows, name: str, where: str, reading: SourceReading) -> Iterator[RowItem]:
    """Yield one document per row, with the id ``name:NUMBER``."""
    for number, row in rows:
        if isinstance(row, Unreadable):
            yield RowItem(number, row)
        else:
            yield RowItem(number, reading.document(row, f"{name}:{number}", f"{where} {number}"))


def json_row(content: bytes | str, encoding: str = UTF_8) -> dict[str, Any]:
    """Return the JSON object in ``content``.

    Raises:
        RowError: not JSON, not in ``encoding``, nested too deep, too large in memory, no object, or with a key twice.
    """
    repeated: str | None = None

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = None if len(found) == len(pairs) else _first_repeated([key for key, _ in pairs])
        return found

    try:
        if isinstance(content, bytes) and not is_utf8(encoding):
            content = decode_text(content, encoding)
        row = json.loads(content, object_pairs_hook=members)
    except UnicodeDecodeError as error:
        raise RowError(f"not valid JSON ({_encoding_problem(content, encoding) or error})") from error
    except MemoryError as error:
        raise RowError("the values of this row take more memory than max_document_gib") from error
    except (ValueError, RecursionError, WrongEncodingError) as error:
        raise RowError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError("not a JSON object, one is needed per line or member")
    if repeated is not None:  # of the outermost object, which is complete last
        raise RowError(f"the key {repeated!r} twice, so it is unknown which value counts")
    return row


def repeated_column(present: Sequence[str], used: Iterable[str]) -> str | None:
    """Return what is wrong with a table that has a column twice of those that are ``used``."""
    repeated = [column for column in used if present.count(column) > 1]
    return f"the column {repeated[0]!r} twice, so it is unknown which one counts" if repeated else None


def _first_repeated(keys: list[str]) -> str:
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _encoding_problem(content: bytes | str, encoding: str) -> str | None:
    try:
        decode_text(content, encoding) if isinstance(content, bytes) else None
    except WrongEncodingError as error:
        return str(error)
    return None
