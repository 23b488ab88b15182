"""Reads documents from Parquet files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.prepare.documents.document import Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import ROWS_OF_A_PART, RowItem, TableStart
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.tables.rows import NumberedRows, documents_of_rows, repeated_column
from components.shared.foreign_files.reading_child import part_read

_MEND = "make or copy the file again"
_ROWS_PER_BATCH = 64
_BUFFER_BYTES = 2**20
_ROWS_BEYOND_DOUBT = 1_000_000
"""More rows than the file has bytes are no documents: run-length encoding makes a billion rows of a few megabytes."""
_MOST_DECODED_BYTES, _MOST_EXPANSION = 4 * 2**30, 1000
"""A file may become so many bytes, or so many times its own: encodings make terabytes of equal rows from kilobytes."""
_LARGEST_COUNTED_FOOTER = 16 * 2**20
_TAIL_BYTES = 8  # the footer's length in 4 bytes, and the format's mark (parquet-format, File Format)


def read_parquet(path: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    """Yield one document per row; ids are ``name:ROW``, counted from 1. Only the named columns are read."""
    yield from documents_of_rows(parquet_rows(path, name, reading, start), name, printable(f"{path}, row"), reading)


def parquet_row_count(path: Path) -> int | None:
    """Return the number of rows that the file's footer gives; None if it is broken, or very large."""
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as stream:
            stream.seek(-_TAIL_BYTES, os.SEEK_END)
            if int.from_bytes(stream.read(4), "little") > _LARGEST_COUNTED_FOOTER:
                return None
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError, ValueError):
        return None


def parquet_rows(
    path: Path, name: str, reading: SourceReading, start: TableStart, more: Sequence[str] = ()
) -> NumberedRows:
    """Yield the rows with the named columns and those in ``more``.

    If a row group is damaged, its rows before the damage come first, then one marker for the others, then the next
    group. Row groups that were read before are passed; inside of one, Arrow decodes the rows that are passed.
    """
    import pyarrow
    import pyarrow.parquet

    settings, where = reading.settings, printable(str(path))
    try:
        # Read through a buffer, not whole column chunks, so that memory does not depend on the size of row groups.
        table = pyarrow.parquet.ParquetFile(
            path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
    except MemoryError:  # also an ArrowException
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield 1, unreadable(settings, name, f"not a readable Parquet file ({error})", where=where, mend=_MEND)
        return
    with table:
        present = table.schema_arrow.names
        if problem := reading.check_columns(present, where):
            yield 1, Unreadable(name, problem, "document_without_column")
            return
        if problem := repeated_column(present, [*reading.columns, *more]):
            yield 1, unreadable(settings, name, problem, where=where, mend="rename one of them")
            return
        promised, size = table.metadata.num_rows, path.stat().st_size
        if promised > max(_ROWS_BEYOND_DOUBT, size):
            problem, mend = f"{promised} rows in {size} bytes: more rows than bytes", "leave it out"
            yield 1, unreadable(settings, name, problem, where=where, mend=mend, reason="document_over_limits")
            return
        room = _Room(max(_MOST_DECODED_BYTES, _MOST_EXPANSION * size), promised)
        columns = [column for column in dict.fromkeys([*reading.columns, *more]) if column in present]
        end = 0
        for group in range(table.num_row_groups):
            number, end = end, end + table.metadata.row_group(group).num_rows
            if end <= start.passed:
                continue
            if start.with_group and number <= start.passed:
                yield end, _dropped_rest(start, end, name, where, reading)
                continue
            rows = 1 if start.row_by_row else _ROWS_PER_BATCH
            batches = table.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
            yield from _numbered(batches, number, end, name, where, reading, start, room)
            if room.left < 0:
                return
        if end != promised:
            problem = f"a damaged footer: {end} rows in its row groups, {promised} in the file"
            yield end + 1, unreadable(settings, name, problem, where=where, mend=_MEND)


@dataclass
class _Room:
    """How many decoded bytes of a file are still taken, and how many rows it has."""

    left: int
    rows: int


def _numbered(
    batches: Iterator[Any],
    number: int,
    end: int,
    name: str,
    where: str,
    reading: SourceReading,
    start: TableStart,
    room: _Room,
) -> NumberedRows:
    """Yield the rows of one group, ``number`` + 1 to ``end``; if there is no room for one, a marker for all others."""
    import pyarrow

    try:
        for batch in batches:
            room.left -= batch.nbytes
            if room.left < 0:
                yield room.rows, _expanded(number, name, where, reading, room)
                return
            if number < start.decided:  # the batch is one row
                number += batch.num_rows
                del batch  # before the next one takes as much memory
                if number % ROWS_OF_A_PART == 0:
                    part_read()
                if number > start.passed:
                    yield number, start.dropped(reading.settings, f"{name}:{number}", f"{where}, row {number}")
                continue
            for row in _rows(batch):
                number += 1
                yield number, row
        if number != end:
            raise ValueError("the number of rows differs from the footer")
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = f"rows {number + 1} to {end} are damaged ({error})"
        yield end, unreadable(reading.settings, f"{name}:{number + 1}", problem, where=where, mend=_MEND)


def _expanded(number: int, name: str, where: str, reading: SourceReading, room: _Room) -> Unreadable:
    """Return the marker for the rows behind ``number``."""
    problem = f"the file's rows take more than {_MOST_DECODED_BYTES >> 30} GiB and {_MOST_EXPANSION} times its bytes"
    source_id, mend = f"{name}:{number + 1}", "leave it out, or write it without repeated rows"
    marker = unreadable(reading.settings, source_id, problem, where=where, mend=mend, reason="document_over_limits")
    return replace(marker, count=room.rows - number)


def _dropped_rest(start: TableStart, end: int, name: str, where: str, reading: SourceReading) -> Unreadable:
    """Return the marker for a row and those behind it in its group."""
    first = start.passed + 1
    problem = f"{start.problem}; there is no way past it to the rows up to {end}" if end > first else start.problem
    marker = replace(start, problem=problem).dropped(reading.settings, f"{name}:{first}", f"{where}, row {first}")
    return replace(marker, count=end - start.passed)


def _rows(batch: Any) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:  # Parquet does not enforce UTF-8: keep the rows that are valid
        columns = {name: _column_of_bytes(batch.column(name)) for name in batch.schema.names}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows


def _column_of_bytes(column: Any) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    elif pyarrow.types.is_string(column.type):
        column = column.cast(pyarrow.binary())
    values: list[Any] = column.to_pylist()
    return values
