"""Documents from tables: JSON lines and Parquet, read row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from components.prepare.source_settings import SourceSettings
from components.prepare.sources.document import Document, Unreadable, printable
from components.prepare.sources.rows import (
    MAX_DOCUMENT_BYTES,
    RowError,
    check_columns,
    decoded,
    document_of_row,
    json_row,
    named_columns,
)
from components.prepare.sources.unreadable import unreadable

_ROWS_PER_BATCH = 64
_BUFFER_BYTES = 2**20


def read_jsonl(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield one document per line that is not blank; ids are ``name:LINE``, counted from 1."""
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
    """Number the lines from 1; None stands for one that is too long, which is read past in parts."""
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES):
        number += 1
        if len(line) == MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(_BUFFER_BYTES)
            yield number, None
        elif not line.isspace():
            yield number, line


def read_parquet(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield one document per row; ids are ``name:ROW``, counted from 1. Only the named columns are read.

    Where a row group is damaged, its rows up to there come, one marker for the others, and the next group.
    """
    import pyarrow
    import pyarrow.parquet

    broken = (pyarrow.ArrowException, OSError, ValueError)
    where, mend = printable(str(path)), "make or copy the file again"
    try:
        # A buffer instead of whole column chunks: memory does not grow with the size of the row groups.
        table = pyarrow.parquet.ParquetFile(
            path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
    except broken as error:
        yield unreadable(settings, name, f"not a readable Parquet file ({error})", where=where, mend=mend)
        return
    with table:
        check_columns(table.schema_arrow.names, settings, where)
        end = 0
        for group in range(table.num_row_groups):
            number, end = end, end + table.metadata.row_group(group).num_rows
            try:
                for row in _rows_of_group(table, group, named_columns(settings)):
                    number += 1
                    yield document_of_row(row, f"{name}:{number}", settings)
                if number != end:
                    raise ValueError("their number is not what the file's footer says")
            except broken as error:
                problem = f"rows {number + 1} to {end} are damaged ({error})"
                yield unreadable(settings, f"{name}:{number + 1}", problem, where=where, mend=mend)
        if end != (promised := table.metadata.num_rows):
            problem = f"a damaged footer: {end} rows in its row groups, {promised} in the file"
            yield unreadable(settings, name, problem, where=where, mend=mend)


def _rows_of_group(table: Any, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    batches = table.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=columns, use_threads=False)
    for batch in batches:
        yield from _rows(batch)


def _rows(batch: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:  # Parquet does not promise that its strings are UTF-8: keep the rows that are
        columns = {name: _decoded_column(batch.column(name)) for name in batch.schema.names}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows


def _decoded_column(column: Any) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    elif pyarrow.types.is_string(column.type):
        column = column.cast(pyarrow.binary())
    return [decoded(value) if isinstance(value, bytes) else value for value in column.to_pylist()]
