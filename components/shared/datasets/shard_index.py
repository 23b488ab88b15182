"""Finds the samples in a shard by reading the tar's headers, not its pictures.

Reading the headers of plain USTAR members here takes a fifth of ``tarfile``'s time. ``tarfile`` reads shards with any
other kind of header (PAX, GNU, links, folders).
"""

import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.errors import UserError

_MEND = "prepare the data again"
_BLOCK = tarfile.BLOCKSIZE
_END_BLOCK = bytes(_BLOCK)
_PICTURES = {"png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp"}
_IMAGE, _METADATA = 0, 1


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    """The content's offset in the tar, in bytes."""
    size: int


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, in the order in which they begin in the tar.

    Attributes:
        spans: (samples, 4) int64: offset and size of the picture, offset and size of the metadata, in bytes.
        keys: the samples' names in UTF-8, concatenated; with ``key_ends`` about 30 bytes per sample.
        key_ends: (samples,) int64: the end of each name in ``keys``.
    """

    spans: npt.NDArray[np.int64]
    keys: bytes
    key_ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.spans)

    def key(self, row: int) -> str:
        """Return the name of the sample in ``row``."""
        start = int(self.key_ends[row - 1]) if row else 0
        return self.keys[start : int(self.key_ends[row])].decode("utf-8", "surrogateescape")


def index_shard(path: Path) -> ShardIndex:
    """Find the samples of a WebDataset tar: members ``<key>.<png|jpg|…>`` and ``<key>.json``; others are skipped.

    Raises:
        UserError: the tar is not complete, or a sample lacks its picture or metadata or has two of them.
    """
    try:
        members = _plain_members(path)
        return _grouped(path, _foreign_members(path) if members is None else members)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"not a readable shard ({error})", where=str(path), mend=_MEND) from error


def _grouped(path: Path, members: list[_Member]) -> ShardIndex:
    found: dict[str, list[tuple[int, int] | None]] = {}
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        kind = _METADATA if extension == "json" else _IMAGE if extension.lower() in _PICTURES else None
        if kind is None:
            continue
        parts = found.setdefault(f"{folder}{slash}{stem}", [None, None])
        if parts[kind] is not None:
            raise UserError(f"the sample {stem!r} has a second .{extension}", where=str(path), mend=_MEND)
        parts[kind] = (member.offset, member.size)
    spans: list[tuple[int, int, int, int]] = []
    for key, (image, metadata) in found.items():
        if image is None or metadata is None:
            missing = "picture" if image is None else "json"
            raise UserError(f"not a readable shard: the sample {key!r} has no {missing}", where=str(path), mend=_MEND)
        spans.append((*image, *metadata))
    keys = [key.encode("utf-8", "surrogateescape") for key in found]
    return ShardIndex(
        np.array(spans, np.int64).reshape(-1, 4), b"".join(keys), np.cumsum([len(key) for key in keys], dtype=np.int64)
    )


def _foreign_members(path: Path) -> list[_Member]:
    with tarfile.open(path, "r:") as archive:
        return [_Member(member.name, member.offset_data, member.size) for member in archive if member.isreg()]


def _plain_members(path: Path) -> list[_Member] | None:
    """Return the members of a tar of plain USTAR files; None if any header is of another kind or damaged."""
    members: list[_Member] = []
    with path.open("rb", buffering=0) as stream:
        place = 0
        while True:
            # 0.5 us per header; a memory map takes 1.3 us or more, because each header faults in a page.
            header = os.pread(stream.fileno(), _BLOCK, place)
            if header == _END_BLOCK:
                return members
            size, name = _plain_header(header)
            if size is None:
                return None
            members.append(_Member(name, place + _BLOCK, size))
            place += _BLOCK + -(-size // _BLOCK) * _BLOCK


def _plain_header(header: bytes) -> tuple[int | None, str]:
    """Return the size and name of a plain USTAR file; size None for a link, a PAX or GNU header, or a truncated one."""
    if len(header) < _BLOCK or header[257:265] != b"ustar\x0000" or header[156:157] not in (b"0", b"\0"):
        return None, ""
    size, checksum = header[124:136].strip(b" \0"), header[148:156].strip(b" \0")
    if not (_is_octal(size) and _is_octal(checksum)):
        return None, ""
    # The checksum is the sum of all bytes, with its own eight as spaces. Adler-32's low half is 1 + the sum of the
    # bytes modulo 65,521 and takes 0.1 us; sum() takes 2.
    if zlib.adler32(b"%b        %b" % (header[:148], header[156:])) & 0xFFFF != (int(checksum, 8) + 1) % 65521:
        return None, ""
    name = header[:100].partition(b"\0")[0]
    if prefix := header[345:500].partition(b"\0")[0]:
        name = prefix + b"/" + name
    return int(size, 8), name.decode("utf-8", "surrogateescape")


def _is_octal(number: bytes) -> bool:
    return number.isdigit() and not number.strip(b"01234567")
