"""Reads documents from WebDataset shards: tar files in which the members with the same key form a sample."""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.drop_reasons import DropReason
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES, RowError, json_row
from components.prepare.sources.tables.tar_members import TAR_ERRORS, LinkError, Member, TarMembers

# WebDataset's rule: the key ends at the first dot of the file name and includes the folders.
_KEY_AND_SUFFIX = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)

_MOST_UNUSED = 1000
"""Members of no sample that are kept until the sample around them ends."""


@dataclass
class _Sample:
    """The members with one key, or a member that belongs to no sample.

    Attributes:
        number: its place in the shard, from 1.
        archive: which of several concatenated archives it is in, from 0.
        contents: of ``json`` and ``txt``; None if a member is too large to be read.
        broken_links: problems of links whose target is not in the archive.
        repeated: the name of a member that the sample has twice.
        unused: for a member that belongs to no sample, what is wrong with it, and the reason that it counts under.
    """

    number: int
    archive: int
    key: str
    suffixes: set[str] = field(default_factory=set)
    contents: dict[str, bytes | None] = field(default_factory=dict)
    broken_links: list[str] = field(default_factory=list)
    repeated: str | None = None
    unused: tuple[str, DropReason] | None = None


def read_webdataset(path: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    """Yield one document per sample: the fields of its ``.json`` member, else its ``.txt``; ids are ``name:KEY``.

    In a file of several concatenated archives, those behind the first have ids ``name:2:KEY``, ``name:3:KEY``. Links
    to members of the same archive are followed. Pictures in a shard are not read. If a shard is cut off, the samples
    that are certainly complete come first, then a marker. Members without a key, pipes and devices are markers too.
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
    if sample.unused:
        return Unreadable(source_id, *sample.unused)
    if sample.repeated:
        problem = f"a second member {printable(sample.repeated)}, so it is unknown which one counts"
        return unreadable(settings, source_id, problem, where=where)
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
    """Yield the samples in the order of the shard, each followed by the members between its own that belong to none.

    The last sample comes only if the archive ends properly. The members of the first ``unread`` samples are passed.
    """
    sample: _Sample | None = None
    unused: list[_Sample] = []
    number = 0
    with path.open("rb") as stream:
        members = TarMembers(stream)
        for member in members:
            key, suffix = _key_and_suffix(member)
            if (sample and sample.key != key and key is not None) or member is None or len(unused) == _MOST_UNUSED:
                number = yield from _numbered(number, sample, unused)
                sample, unused = None, []
            if member is None:
                continue
            if key is None:
                unused.append(_Sample(0, member.archive, member.name, unused=_why_unused(member)))
                continue
            if sample is None:
                sample = _Sample(number + 1, member.archive, key)
            if suffix in sample.suffixes:
                sample.repeated = member.name
            sample.suffixes.add(suffix)
            if suffix in ("json", "txt") and sample.number > unread and sample.repeated is None:
                _read(members, member, suffix, sample)


def _key_and_suffix(member: Member | None) -> tuple[str | None, str]:
    """Return the key and suffix of a member of a sample; no key for other members."""
    matched = _KEY_AND_SUFFIX.fullmatch(member.name) if member and member.is_file_or_link else None
    return (matched[1], matched[2].lower()) if matched else (None, "")


def _why_unused(member: Member) -> tuple[str, DropReason]:
    if member.is_file_or_link:
        return "its name has no key and suffix, as in key.txt", "file_without_key"
    return "not a regular file but a pipe or device", "file_link_not_followed"


def _numbered(number: int, sample: _Sample | None, unused: list[_Sample]) -> Generator[_Sample, None, int]:
    """Yield the sample and the unused members behind it with their numbers after ``number``; return the last one."""
    for one in [sample, *unused] if sample else unused:
        number += 1
        one.number = number
        yield one
    return number


def _read(members: TarMembers, member: Member, suffix: str, sample: _Sample) -> None:
    try:
        sample.contents[suffix] = members.content(member)
    except LinkError as error:
        sample.broken_links.append(str(error))
