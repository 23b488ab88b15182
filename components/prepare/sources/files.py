"""Reads documents from files with the reader for their kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.pages.pdf import read_pdf
from components.prepare.sources.tables.delimited import read_delimited
from components.prepare.sources.tables.json_lines import read_jsonl
from components.prepare.sources.tables.parquet import read_parquet
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES
from components.prepare.sources.tables.webdataset_tar import read_webdataset

FileReader = Callable[[Path, str, SourceReading], Iterator[Document | Unreadable]]


def read_file(path: Path, name: str, reading: SourceReading) -> Iterator[Document | Unreadable]:
    """Yield the documents of one file; every id starts with ``name``, its path relative to the source.

    Raises:
        UserError: a named column is missing; the file or a part of it is broken and ``on_unreadable`` is ``stop``.
    """
    try:
        yield from READERS[path.suffix.lower()](path, name, reading)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        yield unreadable(reading.settings, name, problem, where=printable(str(path)))


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


READERS: dict[str, FileReader] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": read_jsonl,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
    ".tar": read_webdataset,
    ".pdf": read_pdf,
}


def is_readable(name: str) -> bool:
    """Return whether there is a reader for a file of this name."""
    return Path(name).suffix.lower() in READERS
