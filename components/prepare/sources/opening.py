"""Reads the documents that the ``source`` setting names, and computes a digest of their content."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import braceexpand

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.files import READERS, read_file
from components.prepare.sources.hugging_face import hugging_face_digest, read_hugging_face
from components.prepare.sources.pages.images import IMAGE_SUFFIXES, read_image, text_beside
from components.prepare.sources.python_docs import python_docs_digest, read_python_docs
from components.shared.digests import sha256_file
from components.shared.errors import UserError

PYTHON_DOCS = "python-docs"
HUB_PREFIX = "hf:"
IMAGES_PREFIX = "images:"

NamedFile = tuple[str, Path]


def read_documents(settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield the source's documents in a fixed order, at most ``max_documents``, and markers of unreadable input.

    Memory use does not depend on their number: folders are listed one at a time, and files are streamed.

    Raises:
        UserError: the source does not exist, is empty or lacks a column; a part of it is broken and ``on_unreadable``
            is ``stop``.
    """
    documents = 0
    for item in _all_documents(settings):
        yield item
        documents += isinstance(item, Document)
        if documents == settings.max_documents:
            return


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
    for name, path in _digested_files(settings.source):
        try:
            digest.update(json.dumps([name, sha256_file(path)]).encode())
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})", where=printable(str(path))) from error
    return digest.hexdigest()


def _all_documents(settings: SourceSettings) -> Iterator[Document | Unreadable]:
    if settings.source == PYTHON_DOCS:
        yield from read_python_docs()
    elif settings.source.startswith(HUB_PREFIX):
        yield from read_hugging_face(settings.source.removeprefix(HUB_PREFIX), settings)
    elif settings.source.startswith(IMAGES_PREFIX):
        for name, path in _images(settings.source):
            yield from read_file(path, name, settings, read_image)
    else:
        for name, path in _source_files(settings.source):
            yield from read_file(path, name, settings)


def _digested_files(source: str) -> Iterator[NamedFile]:
    if not source.startswith(IMAGES_PREFIX):
        yield from _source_files(source)
        return
    for name, path in _images(source):
        yield name, path
        if beside := text_beside(path):
            yield name + beside[0], beside[1]


def _images(source: str) -> Iterator[NamedFile]:
    root = Path(source.removeprefix(IMAGES_PREFIX)).expanduser()
    if not root.is_dir():
        raise UserError("no such folder", where=f"source {source}", mend=f"write {IMAGES_PREFIX}FOLDER")
    return _files_of_folder(root, IMAGE_SUFFIXES)


def _source_files(source: str) -> Iterator[NamedFile]:
    kinds = ", ".join(READERS)
    root = Path(source).expanduser()
    if "{" in source and not root.exists():
        paths = [Path(name) for name in braceexpand.braceexpand(source)]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError("no such file", where=f"source {missing[0]}", mend="check the pattern")
        if other := [path for path in paths if path.suffix.lower() not in READERS]:
            raise UserError(f"not a kind of file that can be read ({kinds})", where=f"source {other[0]}")
        return ((printable(path.name), path) for path in paths)
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise UserError(f"not a kind of file that can be read ({kinds})", where=f"source {root}")
        return iter([(printable(root.name), root)])
    if not root.is_dir():
        hint = f"; a dataset on the hub is written {HUB_PREFIX}{source}" if source.count("/") == 1 else ""
        raise UserError(
            "no such file or folder", where=f"source {source!r}", mend=f"give a path or {PYTHON_DOCS!r}{hint}"
        )
    return _files_of_folder(root, READERS)


def _files_of_folder(root: Path, suffixes: Collection[str]) -> Iterator[NamedFile]:
    found = _walk(root, root, suffixes)
    if (first := next(found, None)) is None:
        kinds = ", ".join(suffixes)
        raise UserError(f"the folder holds no file that can be read ({kinds})", where=f"source {root}")
    return chain([first], found)


def _walk(root: Path, folder: Path, suffixes: Collection[str]) -> Iterator[NamedFile]:
    """Yield the files below ``folder``, sorted by name with folders in between; linked folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", where=printable(str(folder))) from error
    for name in names:
        path = folder / name
        if path.is_dir():
            if not path.is_symlink():
                yield from _walk(root, path, suffixes)
        elif path.suffix.lower() in suffixes and path.is_file():
            yield printable(path.relative_to(root).as_posix()), path
