"""Reads documents from JSON lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.unreadable import unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.tables.rows import (
    MAX_DOCUMENT_BYTES,
    RowError,
    check_columns,
    document_of_row,
    json_row,
)

_BUFFER_BYTES = 2**20


def read_jsonl(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield one document per non-blank line; ids are ``name:LINE``, counted from 1."""
    checked = False
    with path.open("rb") as stream:
        for number, line in _lines(stream):
            source_id, where = f"{name}:{number}", printable(f"{path}, line {number}")
            if line is None:
                yield Unreadable(source_id, f"a line of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
                continue
            try:
                row = json_row(line)
            except RowError as error:
                yield unreadable(settings, source_id, str(error), where=where)
                continue
            if not checked:
                check_columns(list(row), settings, where)
                checked = True
            yield document_of_row(row, source_id, settings)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number from 1; None instead of a line that is too long, which is skipped in chunks."""
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        number += 1
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(_BUFFER_BYTES)
            yield number, None
        elif not line.isspace():
            yield number, line
