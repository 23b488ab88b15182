"""Reads the documents that the ``source`` setting names, and computes a digest of their content."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import braceexpand

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.reading_tasks import READING_MODULES, FileTask, documents_of
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import TableStart
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.files import READABLE, file_task, is_readable, most_documents_in, read_file_task
from components.prepare.sources.hugging_face import HubTask, hugging_face_digest, read_hub_task
from components.prepare.sources.listing.folders import SourceFile, files_below
from components.prepare.sources.pages.image_folder import digested_files, most_scans, read_image_folder
from components.prepare.sources.pages.images import IMAGE_SUFFIXES
from components.prepare.sources.python_docs import python_docs_digest, read_python_docs
from components.prepare.sources.saved_dataset import is_saved_dataset, read_saved_dataset, split_folder
from components.shared.digests import sha256_file
from components.shared.errors import UserError
from components.shared.foreign_files.foreign_reader import ForeignReader, Reader, ReaderHere
from components.shared.foreign_files.limits import ReadingLimits

PYTHON_DOCS = "python-docs"
HUB_PREFIX = "hf:"
IMAGES_PREFIX = "images:"

_MOST_KINDS = 8

Items = Iterator[Document | Unreadable]


def read_documents(settings: SourceSettings, limits: ReadingLimits | None = None) -> Items:
    """Yield the source's documents in a fixed order, at most ``max_documents``, and markers of unused input.

    Memory use does not depend on their number: folders are listed one at a time, and files are streamed. (Of a metadata
    file beside scans, the names of the pictures are kept.)

    Args:
        limits: foreign files are opened in a child process with these limits; None: in this process, without limits.

    Raises:
        UserError: the source does not exist or is empty; a named column is in no row; or a part of the source is broken
            or beyond the limits, and ``on_unreadable`` is ``stop``.
    """
    reading = SourceReading(settings)
    documents = 0
    with _reader(reading, limits) as reader:
        for item in _all_documents(reading, reader):
            yield item
            documents += isinstance(item, Document)
            if documents == settings.max_documents:
                break
    reading.finish()


def _reader(reading: SourceReading, limits: ReadingLimits | None) -> AbstractContextManager[Reader]:
    if limits is None:
        return nullcontext(ReaderHere(reading))
    return ForeignReader(limits, reading, READING_MODULES)


def source_digest(settings: SourceSettings) -> str:
    """Return a sha256 that changes if the source's content changes; for files, if a name or a byte changes.

    Raises:
        UserError: the source does not exist or cannot be read.
    """
    if settings.source == PYTHON_DOCS:
        return python_docs_digest()
    if settings.source.startswith(HUB_PREFIX):
        return hugging_face_digest(settings.source.removeprefix(HUB_PREFIX), settings)
    digest = hashlib.sha256()
    for name, path in _digested_files(settings):
        try:
            digest.update(json.dumps([name, sha256_file(path)]).encode())
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})", where=printable(str(path))) from error
    return digest.hexdigest()


def check_exists(source: str) -> None:
    """Look whether a source on this machine is there, and at nothing in it.

    Raises:
        UserError: there is no such file or folder.
    """
    if source.startswith(IMAGES_PREFIX):
        _image_root(source)
    elif source != PYTHON_DOCS and not source.startswith(HUB_PREFIX) and _folder(source) is None:
        _named_files(source)


def most_documents(settings: SourceSettings, enough: int) -> int | None:
    """Return how many documents the source gives at most, without reading texts; None if only reading can tell.

    Args:
        enough: the count ends there.

    Raises:
        UserError: the source does not exist.
    """
    limit = settings.max_documents
    counted = _counted(settings.source, enough)
    return limit if counted is None else min(counted, limit or enough, enough)


def _counted(source: str, enough: int) -> int | None:
    if source == PYTHON_DOCS or source.startswith(HUB_PREFIX):
        return None
    if source.startswith(IMAGES_PREFIX):
        return most_scans(_image_root(source), enough)
    folder = _folder(source)
    if folder and is_saved_dataset(folder):
        return None
    below = (file.path for file in files_below(folder, is_readable) if isinstance(file, SourceFile)) if folder else None
    total = 0
    for path in below or (path for _, path in _named_files(source)):
        of_file = most_documents_in(path, enough - total)
        if of_file is None:
            return None
        total += of_file
        if total >= enough:
            break
    return total


def _all_documents(reading: SourceReading, reader: Reader) -> Items:
    source = reading.settings.source
    if source == PYTHON_DOCS:
        yield from read_python_docs()
    elif source.startswith(HUB_PREFIX):
        yield from documents_of(reader, read_hub_task, [HubTask(source.removeprefix(HUB_PREFIX))], reading)
    elif source.startswith(IMAGES_PREFIX):
        yield from _some(read_image_folder(_image_root(source), reading, reader), source, IMAGE_SUFFIXES)
    elif (folder := _folder(source)) is None:
        tasks = (file_task(path, name) for name, path in _named_files(source))
        yield from documents_of(reader, read_file_task, tasks, reading)
    elif is_saved_dataset(folder):
        saved = FileTask(printable(folder.name), TableStart(), str(folder))
        yield from documents_of(reader, read_saved_dataset, [saved], reading)
    else:
        below = (
            file if isinstance(file, Unreadable) else file_task(file.path, file.name)
            for file in files_below(folder, is_readable)
        )
        yield from _some(documents_of(reader, read_file_task, below, reading), source, READABLE)


def _digested_files(settings: SourceSettings) -> Iterator[tuple[str, Path]]:
    source = settings.source
    if source.startswith(IMAGES_PREFIX):
        yield from digested_files(_image_root(source))
    elif (folder := _folder(source)) is None:
        yield from _named_files(source)
    else:
        saved = is_saved_dataset(folder)
        root = split_folder(folder, settings.source_split) if saved else folder
        for file in files_below(root, lambda name: saved or is_readable(name)):
            if isinstance(file, SourceFile):
                yield file.name, file.path


def _some(items: Items, source: str, suffixes: Iterable[str]) -> Items:
    """Yield the items of a folder.

    Raises:
        UserError: all of them are markers of files that are not read; names their kinds.
    """
    unread: Counter[str] = Counter()
    empty = True
    for item in items:
        if isinstance(item, Unreadable) and item.reason == "file_kind_not_read":
            unread[item.kind] += 1
        elif not (isinstance(item, Unreadable) and item.reason == "file_hidden"):
            empty = False
        yield item
    if empty:
        there = ", ".join(f"{count} {kind}" for kind, count in unread.most_common(_MOST_KINDS))
        found = f"; it holds {there}" if there else ""
        raise UserError(
            f"the folder holds no file that can be read ({', '.join(suffixes)}){found}",
            where=f"source {source}",
            mend=way_to_read_pictures(source, unread) or None,
        )


def way_to_read_pictures(source: str, unread_kinds: Iterable[str]) -> str:
    """Return how to read the pictures among a folder's files that were not read; empty if there are none.

    >>> way_to_read_pictures("scans", [".png", ".docx"]), way_to_read_pictures("scans", [".docx"])
    ('to read the pictures, with the texts beside them as labels, write images:scans', '')
    """
    if source.startswith(IMAGES_PREFIX) or not set(IMAGE_SUFFIXES).intersection(map(str.lower, unread_kinds)):
        return ""
    return f"to read the pictures, with the texts beside them as labels, write {IMAGES_PREFIX}{source}"


def _image_root(source: str) -> Path:
    root = Path(source.removeprefix(IMAGES_PREFIX)).expanduser()
    if not root.is_dir():
        raise UserError("no such folder", where=f"source {source}", mend=f"write {IMAGES_PREFIX}FOLDER")
    return root


def _folder(source: str) -> Path | None:
    root = Path(source).expanduser()
    return root if root.is_dir() else None


def _named_files(source: str) -> Iterator[tuple[str, Path]]:
    """Return the file, or the files of a brace pattern, that ``source`` names, with their names in ids."""
    kinds = ", ".join(READABLE)
    root = Path(source).expanduser()
    if "{" in source and not root.exists():
        paths = [Path(name) for name in braceexpand.braceexpand(source)]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError("no such file", where=f"source {missing[0]}", mend="check the pattern")
        if other := [path for path in paths if not is_readable(path.name)]:
            raise UserError(f"not a kind of file that can be read ({kinds})", where=f"source {other[0]}")
        return ((printable(path.name), path) for path in paths)
    if root.is_file():
        if not is_readable(root.name):
            raise UserError(f"not a kind of file that can be read ({kinds})", where=f"source {root}")
        return iter([(printable(root.name), root)])
    hint = f"; a dataset on the hub is written {HUB_PREFIX}{source}" if source.count("/") == 1 else ""
    raise UserError("no such file or folder", where=f"source {source!r}", mend=f"give a path or {PYTHON_DOCS!r}{hint}")
