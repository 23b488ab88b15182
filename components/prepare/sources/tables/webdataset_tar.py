"""Reads documents from WebDataset shards: tar files in which the members with the same key form a sample."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.unreadable import unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.tables.rows import (
    MAX_DOCUMENT_BYTES,
    RowError,
    check_columns,
    decoded,
    document_of_row,
    json_row,
)

# WebDataset's rule: the key ends at the first dot of the file name and includes the folders.
_KEY_AND_SUFFIX = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)

# Errors that tarfile raised for damaged headers, besides its own.
_TAR_ERRORS = (tarfile.TarError, OSError, ValueError, EOFError, LookupError, OverflowError, RecursionError)


@dataclass
class _Sample:
    """The members with one key: contents of ``json`` and ``txt``; None if a member is too large to be read."""

    key: str
    suffixes: set[str] = field(default_factory=set)
    contents: dict[str, bytes | None] = field(default_factory=dict)


def read_webdataset(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield one document per sample: the fields of its ``.json`` member, else its ``.txt``; ids are ``name:KEY``.

    Pictures in a shard are not read. If a shard is cut off, the samples that are certainly complete come first, then a
    marker.
    """
    samples = _samples(path)
    while True:
        try:
            sample = next(samples, None)
        except _TAR_ERRORS as error:
            problem = f"a corrupt shard ({error})"
            yield unreadable(settings, name, problem, where=printable(str(path)), mend="make or copy the shard again")
            return
        if sample is None:
            return
        yield _document(sample, path, name, settings)


def _document(sample: _Sample, path: Path, name: str, settings: SourceSettings) -> Document | Unreadable:
    key = printable(sample.key)
    source_id, where = f"{name}:{key}", printable(f"{path}, {key}")
    for suffix in ("json", "txt"):
        if suffix not in sample.contents:
            continue
        content = sample.contents[suffix]
        if content is None:
            return Unreadable(source_id, f"a member of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
        if suffix == "txt":
            return Document(source_id, decoded(content), lang=settings.lang)
        try:
            row = json_row(content)
        except RowError as error:
            return unreadable(settings, source_id, str(error), where=f"{where}.json")
        check_columns(list(row), settings, f"{where}.json")
        return document_of_row(row, source_id, settings)
    return unreadable(settings, source_id, "the sample has neither a .txt nor a .json member", where=where)


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the samples in the order of the shard; the last one only if the archive ends properly."""
    sample: _Sample | None = None
    with tarfile.open(path, "r:") as archive:
        for member in _members(archive):
            matched = _KEY_AND_SUFFIX.fullmatch(member.name)
            if not member.isfile() or matched is None:
                continue
            key, suffix = matched[1], matched[2].lower()
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key)
            if suffix in sample.suffixes:
                raise tarfile.ReadError(f"a second member {printable(member.name)}")
            sample.suffixes.add(suffix)
            if suffix in ("json", "txt"):
                sample.contents[suffix] = _content(archive, member)
        _check_end(archive)
    if sample is not None:
        yield sample


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    before = -1
    while (member := archive.next()) is not None:
        if archive.offset <= before:  # with a negative size, tarfile would loop forever
            raise tarfile.ReadError(f"a member of negative size at byte {member.offset}")
        before = archive.offset
        archive.members = []  # type: ignore[attr-defined] # tarfile would keep every header (about 1 kB each)
        yield member


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > MAX_DOCUMENT_BYTES:
        return None
    stream = archive.extractfile(member)
    assert stream is not None  # true for regular files
    content = stream.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise if tarfile stopped at a broken header or at the end of a truncated file instead of the archive's end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end of archive, and no readable member, at byte {archive.offset}")
