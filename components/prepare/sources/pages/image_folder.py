"""Reads folders of scans: texts beside the pictures, or in a metadata file as in ``datasets``' imagefolder."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.reading_tasks import FileTask, ReadItem, documents_of
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.listing.folders import Listing, SourceFile, files_below
from components.prepare.sources.pages.images import (
    ScanTask,
    is_picture,
    is_scan_text,
    read_scan_task,
    scan,
    scan_task,
    text_beside,
    texts_without_picture,
)
from components.prepare.sources.tables.delimited import delimited_rows
from components.prepare.sources.tables.json_lines import jsonl_rows
from components.prepare.sources.tables.parquet import parquet_rows
from components.prepare.sources.tables.rows import NumberedRows, Row
from components.shared.foreign_files.foreign_reader import Reader

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"


@dataclass(frozen=True)
class MetadataTask(FileTask):
    """A metadata file in the folder ``root`` of scans."""

    root: str


def read_image_folder(root: Path, reading: SourceReading, reader: Reader) -> Iterator[Document | Unreadable]:
    """Yield a document per picture below ``root``, and markers for all other files.

    The pictures that a ``metadata.csv``, ``.jsonl`` or ``.parquet`` names in its column ``file_name`` come first, with
    the text of the named columns. The others have their text beside them.
    """
    described: set[str] = set()
    for item in documents_of(reader, read_metadata, _metadata_files(root), reading):
        if isinstance(item, Document):
            described.update(picture.path for picture in item.pictures)
        yield item
    yield from documents_of(reader, read_scan_task, _scans(root, described), reading)


def _metadata_files(root: Path) -> Iterator[MetadataTask]:
    for file in _files(root):
        if isinstance(file, SourceFile) and file.path.name in _METADATA:
            start = TableStart(row_by_row=file.path.suffix != ".parquet")
            yield MetadataTask(file.name, start, str(file.path), str(root))


def _scans(root: Path, described: Container[str]) -> Iterator[ScanTask | Unreadable]:
    """Yield the pictures whose path is not in ``described``, and markers for the other files."""
    listing: Listing | None = None
    unused: set[str] = set()
    for file in _files(root):
        if isinstance(file, Unreadable):
            yield file
        elif is_picture(file.path.name):
            if str(file.path.absolute()) not in described:
                yield scan_task(file)
        elif is_scan_text(file.path.name):
            if file.listing is not listing:
                listing, unused = file.listing, set(texts_without_picture(file.listing))
            if file.path.name in unused:
                yield Unreadable(file.name, "no picture of this name beside it", "file_without_picture")


def digested_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that the documents of ``root`` depend on, with the names that they are digested under."""
    for file in _files(root):
        if isinstance(file, Unreadable):
            continue
        if file.path.name in _METADATA:
            yield file.name, file.path
        elif is_picture(file.path.name):
            yield file.name, file.path
            if beside := text_beside(file.path.name, file.listing):
                yield file.name + printable(beside), file.path.with_name(beside)


def most_scans(root: Path, enough: int) -> int | None:
    """Return how many scans the folder has at most, counted to ``enough``; None if a metadata file lists them."""
    scans = 0
    for file in _files(root):
        if isinstance(file, SourceFile):
            if file.path.name in _METADATA:
                return None
            scans += is_picture(file.path.name) and text_beside(file.path.name, file.listing) is not None
        if scans >= enough:
            break
    return scans


def _files(root: Path) -> Iterator[SourceFile | Unreadable]:
    return files_below(root, lambda name: is_picture(name) or is_scan_text(name) or name in _METADATA)


def read_metadata(reading: SourceReading, task: MetadataTask) -> Iterator[ReadItem]:
    """Yield the pictures that a metadata file names, with their texts, and markers for the rows that name none."""
    yield from reading.with_notes(_described_scans(task, reading))


def _described_scans(task: MetadataTask, reading: SourceReading) -> Iterator[RowItem]:
    path = Path(task.path)
    for number, row in _rows(path, task.source_id, reading, task.start or TableStart()):
        if isinstance(row, Unreadable):
            yield RowItem(number, row)
        else:
            source_id, place = f"{task.source_id}:{number}", f"{task.where}, row {number}"
            yield RowItem(number, _described_scan(row, source_id, place, task, reading))


def _described_scan(
    row: Row, source_id: str, place: str, task: MetadataTask, reading: SourceReading
) -> Document | Unreadable:
    path, root = Path(task.path), Path(task.root)
    document = reading.document(row, source_id, place)
    name = row.get(_FILE_NAME)
    if isinstance(document, Unreadable):
        return document
    if not isinstance(name, str):
        return unreadable(reading.settings, source_id, f"no {_FILE_NAME}", where=place)
    if (picture := _inside(path.parent / name, root)) is None:
        problem = f"the picture {printable(name)} is not in the folder"
        return unreadable(reading.settings, source_id, problem, where=place)
    if not isinstance(document.text, str):
        return Document(source_id, document.text)
    place_in_folder = printable(picture.relative_to(root).as_posix())
    return scan(picture, place_in_folder, document.text, reading, document.lang)


def _rows(path: Path, name: str, reading: SourceReading, start: TableStart) -> NumberedRows:
    if path.suffix == ".csv":
        return delimited_rows(path, name, reading, start, [_FILE_NAME])
    if path.suffix == ".jsonl":
        return jsonl_rows(path, name, reading, start)
    return parquet_rows(path, name, reading, start, [_FILE_NAME])


def _inside(path: Path, root: Path) -> Path | None:
    """Return ``path`` without ``..``, if it is a file below ``root``."""
    try:
        plain = root / path.resolve(strict=True).relative_to(root.resolve())
        return plain if plain.is_file() and is_picture(plain.name) else None
    except (OSError, ValueError, RuntimeError):
        return None
