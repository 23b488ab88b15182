"""Reads documents from WebDataset shards: tar files in which the members with the same key form a sample."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES, RowError, json_row
from components.prepare.sources.tables.tar_members import TAR_ERRORS, LinkError, Member, TarMembers

# WebDataset's rule: the key ends at the first dot of the file name and includes the folders.
_KEY_AND_SUFFIX = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


@dataclass
class _Sample:
    """The members with one key: contents of ``json`` and ``txt``; None if a member is too large to be read.

    Attributes:
        number: its place in the shard, from 1.
        archive: which of several concatenated archives it is in, from 0.
        broken_links: problems of links whose target is not in the archive.
    """

    number: int
    archive: int
    key: str
    suffixes: set[str] = field(default_factory=set)
    contents: dict[str, bytes | None] = field(default_factory=dict)
    broken_links: list[str] = field(default_factory=list)


def read_webdataset(path: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    """Yield one document per sample: the fields of its ``.json`` member, else its ``.txt``; ids are ``name:KEY``.

    In a file of several concatenated archives, those behind the first have ids ``name:2:KEY``, ``name:3:KEY``. Links
    to members of the same archive are followed. Pictures in a shard are not read. If a shard is cut off, the samples
    that are certainly complete come first, then a marker.
    """
    samples, number = _samples(path, start.decided), start.passed
    while True:
        try:
            sample = next(samples, None)
        except TAR_ERRORS as error:
            problem, where = f"a corrupt shard ({error})", printable(str(path))
            marker = unreadable(reading.settings, name, problem, where=where, mend="make or copy the shard again")
            yield RowItem(number + 1, marker)
            return
        if sample is None:
            return
        number = sample.number
        if number <= start.passed:
            continue
        key = printable(sample.key)
        source_id = f"{name}:{sample.archive + 1}:{key}" if sample.archive else f"{name}:{key}"
        where = printable(f"{path}, {key}")
        if number <= start.decided:
            yield RowItem(number, start.dropped(reading.settings, source_id, where))
        else:
            yield RowItem(number, _document(sample, source_id, where, reading))


def _document(sample: _Sample, source_id: str, where: str, reading: SourceReading) -> Document | Unreadable:
    settings = reading.settings
    for suffix in ("json", "txt"):
        if suffix not in sample.contents:
            continue
        content = sample.contents[suffix]
        if content is None:
            return Unreadable(source_id, f"a member of more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
        try:
            if suffix == "json":
                return reading.document(json_row(content, settings.encoding), source_id, f"{where}.json")
            return Document(source_id, decode_text(content, settings.encoding), lang=settings.lang)
        except RowError as error:
            return unreadable(settings, source_id, str(error), where=f"{where}.json")
        except WrongEncodingError as error:
            return Unreadable(source_id, str(error), "document_wrong_encoding")
    if sample.broken_links:
        return Unreadable(source_id, sample.broken_links[0], "file_link_not_followed")
    return unreadable(settings, source_id, "the sample has neither a .txt nor a .json member", where=where)


def _samples(path: Path, unread: int) -> Iterator[_Sample]:
    """Yield the samples in the order of the shard; the last one only if the archive ends properly.

    The members of the first ``unread`` samples are passed.
    """
    sample: _Sample | None = None
    number = 0
    with path.open("rb") as stream:
        members = TarMembers(stream)
        for member in members:
            if member is None:
                if sample is not None:
                    yield sample
                sample = None
                continue
            matched = _KEY_AND_SUFFIX.fullmatch(member.name)
            if matched is None:
                continue
            key, suffix = matched[1], matched[2].lower()
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                number += 1
                sample = _Sample(number, member.archive, key)
            if suffix in sample.suffixes:
                raise tarfile.ReadError(f"a second member {printable(member.name)}")
            sample.suffixes.add(suffix)
            if suffix in ("json", "txt") and number > unread:
                _read(members, member, suffix, sample)


def _read(members: TarMembers, member: Member, suffix: str, sample: _Sample) -> None:
    try:
        sample.contents[suffix] = members.content(member)
    except LinkError as error:
        sample.broken_links.append(str(error))
