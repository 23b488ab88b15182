"""Reads documents from files with the reader for their kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.reading_tasks import FileTask, ReadItem
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.pages.pdf import read_pdf
from components.prepare.sources.tables.delimited import read_delimited
from components.prepare.sources.tables.json_lines import read_jsonl
from components.prepare.sources.tables.parquet import parquet_row_count, read_parquet
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES
from components.prepare.sources.tables.webdataset_tar import read_webdataset

FileReader = Callable[[Path, str, SourceReading], Iterator[Document | Unreadable]]
TableReader = Callable[[Path, str, SourceReading, TableStart], Iterator[RowItem]]


def file_task(path: Path, name: str) -> FileTask:
    """Return the task to read the file at ``path``, whose ids begin with ``name``."""
    return FileTask(name, table_start(path), str(path))


def table_start(path: Path) -> TableStart | None:
    """Return where to begin in a table; None for a file of another kind."""
    suffix = path.suffix.lower()
    return TableStart(row_by_row=suffix not in _IN_BATCHES) if suffix in _TABLE_READERS else None


def read_file(
    path: Path, name: str, reading: SourceReading, start: TableStart | None
) -> Iterator[Document | Unreadable | RowItem]:
    """Yield the documents of one file; every id starts with ``name``, its path relative to the source.

    Raises:
        UserError: a named column is missing; the file or a part of it is broken and ``on_unreadable`` is ``stop``.
    """
    try:
        if start is None:
            yield from _DOCUMENT_READERS[path.suffix.lower()](path, name, reading)
        else:
            yield from _TABLE_READERS[path.suffix.lower()](path, name, reading, start)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        yield unreadable(reading.settings, name, problem, where=printable(str(path)))


def read_file_task(reading: SourceReading, task: FileTask | Unreadable) -> Iterator[ReadItem]:
    """Yield what ``read_file`` gives for the file of a task; a marker is passed on."""
    if isinstance(task, Unreadable):
        yield task
    else:
        yield from reading.with_notes(read_file(Path(task.path), task.source_id, reading, task.start))


def _read_text(path: Path, name: str, reading: SourceReading) -> Iterator[Document | Unreadable]:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        yield Unreadable(name, f"a text of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
        return
    try:
        text = decode_text(path.read_bytes(), reading.settings.encoding)
    except WrongEncodingError as error:
        yield Unreadable(name, str(error), "document_wrong_encoding")
    else:
        yield Document(source_id=name, text=text, lang=reading.settings.lang)


_DOCUMENT_READERS: dict[str, FileReader] = {".txt": _read_text, ".md": _read_text, ".pdf": read_pdf}
_TABLE_READERS: dict[str, TableReader] = {
    ".jsonl": read_jsonl,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
    ".tar": read_webdataset,
}
_IN_BATCHES = (".parquet",)
READABLE = (*_DOCUMENT_READERS, *_TABLE_READERS)
"""The suffixes of files that can be read, as messages list them."""

_ROWS_OF_LINES, _HEADED = (".jsonl", ".csv", ".tsv"), (".csv", ".tsv")
_CHUNK_BYTES = 1 << 20


def most_documents_in(path: Path, enough: int) -> int | None:
    """Return how many documents a file holds at most, without parsing it; None if only parsing can tell.

    Args:
        enough: the count ends there.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in _DOCUMENT_READERS:
            return 1
        if suffix in _ROWS_OF_LINES:
            return max(0, _lines(path, enough + 1) - (suffix in _HEADED))
        return parquet_row_count(path) if suffix == ".parquet" else None
    except OSError:
        return None  # reading it reports the error


def _lines(path: Path, enough: int) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as stream:
        while lines < enough and (chunk := stream.read(_CHUNK_BYTES)):
            lines += chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n")
            last = chunk[-1:]
    return lines + (last not in b"\r\n")


def is_readable(name: str) -> bool:
    """Return whether there is a reader for a file of this name."""
    return Path(name).suffix.lower() in READABLE
