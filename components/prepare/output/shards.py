"""Writes pages as WebDataset shards; the same pages give the same bytes."""

import hashlib
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.prepare.output.merged_pages import SpooledPage
from components.shared.artifacts.dataset_manifest import Shard, Split, SplitIndex


def _empty_header() -> bytes:
    header = tarfile.TarInfo()
    header.uname = header.gname = "deepsynth"
    return header.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _empty_header()
_REST_SUM = sum(_HEADER[156:]) + 8 * ord(" ")
_SIZE_LIMIT = 8**11


class PageSequence(Protocol):
    """Pages that can be sliced: a list of them, or ``MergedPages``."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Iterable[SpooledPage]: ...


@dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        path: the tar file.
        split: prefix of the samples' keys.
        first: number of its first page within the split.
        pages: its pages.
        image_format: file suffix of the pictures.
    """

    path: Path
    split: Split
    first: int
    pages: Iterable[SpooledPage]
    image_format: str


Writer = Callable[[ShardTask], Shard]
InOrder = Callable[[Writer, list[ShardTask]], Iterable[Shard]]
"""``map``, or a parallel version of it."""


def write_shards(
    pages: PageSequence,
    split: Split,
    folder: Path,
    image_format: str,
    max_samples_per_shard: int,
    in_order: InOrder = map,
) -> SplitIndex:
    """Write ``<split>-000000.tar``, … and return their index; without pages, no shard is written.

    Raises:
        ValueError: ``max_samples_per_shard`` is below 1, or a picture has 8 GiB or more.
    """
    if max_samples_per_shard < 1:
        raise ValueError(f"max_samples_per_shard must be at least 1, not {max_samples_per_shard}")
    starts = range(0, len(pages), max_samples_per_shard)
    tasks = [
        ShardTask(
            folder / f"{split}-{number:06d}.tar",
            split,
            start,
            pages[start : start + max_samples_per_shard],
            image_format,
        )
        for number, start in enumerate(starts)
    ]
    return SplitIndex(shardlist=list(in_order(write_shard, tasks)))


def write_shard(task: ShardTask) -> Shard:
    """Write one shard and return its entry in the manifest.

    A sample is ``<split>-<number in the split, 8 digits>.<image_format>`` followed by the same name with ``.json``. The
    tars are plain USTAR and byte for byte what ``tarfile`` writes.

    Raises:
        ValueError: a picture has 8 GiB or more.
    """
    digest = hashlib.sha256()
    samples = size = 0
    with task.path.open("wb") as stream:
        for number, page in enumerate(task.pages, start=task.first):
            key = f"{task.split}-{number:08d}"
            blocks = b"".join(
                (*_member(f"{key}.{task.image_format}", page.image), *_member(f"{key}.json", page.metadata))
            )
            stream.write(blocks)
            digest.update(blocks)
            samples, size = samples + 1, size + len(blocks)
        # Two empty blocks end a tar; like tarfile and GNU tar, fill the last record of 20 blocks.
        end = bytes(2 * tarfile.BLOCKSIZE + -(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)
        stream.write(end)
        digest.update(end)
    return Shard(url=task.path.name, nsamples=samples, filesize=size + len(end), sha256=digest.hexdigest())


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the header, the content, and the padding of its last block.

    ``TarInfo.tobuf`` takes 15 us per header. Headers differ only in the name, the size and the checksum (POSIX.1-1988:
    the sum of all bytes, with the checksum's own eight bytes as spaces).
    """
    size = len(content)
    if size >= _SIZE_LIMIT:
        raise ValueError(f"{name} has {size} bytes, a tar member must have less than {_SIZE_LIMIT}")
    front = b"".join((name.encode("ascii").ljust(100, b"\0"), _HEADER[100:124], b"%011o\0" % size, _HEADER[136:148]))
    checksum = sum(front) + _REST_SUM
    return b"".join((front, b"%06o\0 " % checksum, _HEADER[156:])), content, bytes(-size % tarfile.BLOCKSIZE)
