"""Reads the members of a tar file in order: of all archives in it, and the targets of links inside it."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from components.prepare.documents.document import printable
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES

# Errors that tarfile raised for damaged headers, besides its own.
TAR_ERRORS = (tarfile.TarError, OSError, ValueError, EOFError, LookupError, OverflowError, RecursionError)

_MOST_LINKS = 16
_CHUNK_BYTES = 2**16
_NUL_BLOCK = tarfile.NUL * tarfile.BLOCKSIZE


class LinkError(Exception):
    """A link whose target is not a file in the archive; the message names it."""


@dataclass(frozen=True)
class Member:
    """A file, link, pipe or device in a tar file; ``archive`` counts the archives that were concatenated, from 0."""

    archive: int
    info: tarfile.TarInfo

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def is_file_or_link(self) -> bool:
        return self.info.isfile() or self.info.issym() or self.info.islnk()


class TarMembers:
    """The members of a tar file; iterating reads the headers only, and keeps none in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._archive: tarfile.TarFile | None = None
        self._start = 0
        self._targets: dict[str, tarfile.TarInfo] | None = None

    def __iter__(self) -> Iterator[Member | None]:
        """Yield all but folders, and None behind the last member of an archive that ends properly.

        Raises:
            one of TAR_ERRORS: a damaged header, or no end of archive.
        """
        number, start = 0, 0
        while True:
            self._stream.seek(start)
            with tarfile.open(fileobj=self._stream, mode="r:") as self._archive:
                self._start, self._targets = start, None
                for info in _infos(self._archive):
                    if not info.isdir():
                        yield Member(number, info)
                start = _end_of_archive(self._stream, self._archive.offset)
                yield None
            start = _next_archive(self._stream, start)
            if start < 0:
                return
            number += 1

    def content(self, member: Member) -> bytes | None:
        """Return the bytes of the member that was yielded last; None if it is larger than a document may be.

        Raises:
            LinkError: it is a link, and its target is not a file in the same archive.
            tarfile.ReadError: the file ends inside it.
        """
        assert self._archive is not None
        info = member.info if member.info.isfile() else self._target(member.info)
        if info.size > MAX_DOCUMENT_BYTES:
            return None
        stream = self._archive.extractfile(info)
        assert stream is not None  # true for regular files
        content = stream.read()
        if len(content) != info.size:
            raise tarfile.ReadError("unexpected end of data")
        return content

    def _target(self, link: tarfile.TarInfo) -> tarfile.TarInfo:
        if self._targets is None:
            self._targets = self._links_and_files()
        info = link
        for _ in range(_MOST_LINKS):
            folder = posixpath.dirname(info.name) if info.issym() else ""  # a hard link names its target in full
            name = posixpath.normpath(posixpath.join(folder, info.linkname))
            target = self._targets.get(name)
            if target is None:
                raise LinkError(f"a link to {printable(info.linkname)}, which is not in the archive")
            if target.isfile():
                return target
            info = target
        raise LinkError(f"a chain of more than {_MOST_LINKS} links")

    def _links_and_files(self) -> dict[str, tarfile.TarInfo]:
        """Return the members of the current archive by name; read only for an archive with links."""
        place = self._stream.tell()
        self._stream.seek(self._start)
        with tarfile.open(fileobj=self._stream, mode="r:") as archive:
            found = {posixpath.normpath(info.name): info for info in _infos(archive)}
        self._stream.seek(place)
        return found


def _infos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    before = -1
    while (info := archive.next()) is not None:
        if archive.offset <= before:  # with a negative size, tarfile would loop forever
            raise tarfile.ReadError(f"a member of negative size at byte {info.offset}")
        before = archive.offset
        archive.members = []  # type: ignore[attr-defined] # tarfile would keep every header (about 1 kB each)
        yield info


def _end_of_archive(stream: BinaryIO, offset: int) -> int:
    """Return the byte behind the first block of the archive's end.

    Raises:
        tarfile.ReadError: tarfile stopped at a broken header or at the end of a truncated file instead.
    """
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != _NUL_BLOCK:
        raise tarfile.ReadError(f"no end of archive, and no readable member, at byte {offset}")
    return offset + tarfile.BLOCKSIZE


def _next_archive(stream: BinaryIO, offset: int) -> int:
    """Return where the next archive starts, behind zero blocks (``cat a.tar b.tar``); -1 at the end of the file."""
    stream.seek(offset)
    while chunk := stream.read(_CHUNK_BYTES):
        if stripped := chunk.lstrip(tarfile.NUL):
            behind = len(chunk) - len(stripped)
            return offset + behind // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        offset += len(chunk)
    return -1
