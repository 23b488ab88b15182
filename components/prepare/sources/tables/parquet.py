"""Reads documents from Parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.unreadable import unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.tables.rows import check_columns, decoded, document_of_row, named_columns

_ROWS_PER_BATCH = 64
_BUFFER_BYTES = 2**20


def read_parquet(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield one document per row; ids are ``name:ROW``, counted from 1. Only the named columns are read.

    If a row group is damaged, its rows before the damage come first, then one marker for the others, then the next
    group.
    """
    import pyarrow
    import pyarrow.parquet

    broken = (pyarrow.ArrowException, OSError, ValueError)
    where, mend = printable(str(path)), "make or copy the file again"
    try:
        # Read through a buffer, not whole column chunks, so that memory does not depend on the size of row groups.
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
                    raise ValueError("the number of rows differs from the footer")
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
    except UnicodeDecodeError:  # Parquet does not enforce UTF-8: keep the rows that are valid
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
