"""Converts a table row from any kind of file to a document."""

import json
from collections.abc import Mapping
from typing import Any

from components.prepare.documents.document import Document
from components.prepare.settings.source_settings import SourceSettings
from components.shared.errors import UserError

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Longer text files, lines and members are not read but counted as ``document_too_long``. This is 64 times the default
of ``max_document_characters``, so the limit only protects memory."""

_COLUMN_OPTIONS = ("text_column", "title_column", "target_column", "lang_column")


class RowError(Exception):
    """A line or member is not a valid row; the message says why."""


def named_columns(settings: SourceSettings) -> list[str]:
    """Return the columns that ``settings`` names, each once."""
    named = (getattr(settings, option) for option in _COLUMN_OPTIONS)
    return list(dict.fromkeys(column for column in named if column is not None))


def check_columns(present: list[str], settings: SourceSettings, where: str) -> None:
    """Check that a table has the columns that the settings name.

    Raises:
        UserError: a column is missing; lists the existing ones.
    """
    for option in _COLUMN_OPTIONS:
        column = getattr(settings, option)
        if column is not None and column not in present:
            raise UserError(
                f"no column {column!r} (there are: {', '.join(present) or 'none'})",
                where=where,
                mend=f"set {option} to one of them",
            )


def json_row(content: bytes) -> dict[str, Any]:
    """Return the JSON object in ``content``.

    Raises:
        RowError: not JSON, not UTF-8, nested too deep, or not an object.
    """
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError("not a JSON object, one is needed per line or member")
    return row


def document_of_row(row: Mapping[str, Any], source_id: str, settings: SourceSettings) -> Document:
    """Return the document of one table row; a missing or null text becomes "", which is dropped later.

    Titles, summaries and languages that are not strings count as missing.
    """
    text = row.get(settings.text_column)
    return Document(
        source_id,
        "" if text is None else text,
        title=_string(row, settings.title_column),
        lang=_string(row, settings.lang_column) or settings.lang,
        target=_string(row, settings.target_column),
    )


def decoded(content: bytes) -> str | bytes:
    """Return ``content`` as text without a byte order mark, or unchanged if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content


def _string(row: Mapping[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column is not None else None
    return value if isinstance(value, str) else None
