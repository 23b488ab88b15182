"""Pages written as WebDataset shards, the same bytes every time."""

import hashlib
import tarfile
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from components.prepare.output.page_spool import SpooledPage
from components.shared.dataset_manifest import Shard, Split, SplitIndex


def _empty_header() -> bytes:
    header = tarfile.TarInfo()
    header.uname = header.gname = "deepsynth"
    return header.tobuf(tarfile.USTAR_FORMAT)


_HEADER = _empty_header()
_REST_SUM = sum(_HEADER[156:]) + 8 * ord(" ")
_SIZE_LIMIT = 8**11


def write_shards(
    pages: Iterable[SpooledPage], split: Split, folder: Path, image_format: str, max_samples_per_shard: int
) -> SplitIndex:
    """Write ``<split>-000000.tar``, … and return their index; no pages, no shard.

    A sample is ``<split>-<number in the split, 8 digits>.<image_format>`` and, after it, the same with ``.json``. The
    tars are plain USTAR, byte for byte what ``tarfile`` writes.

    Raises:
        ValueError: ``max_samples_per_shard`` is below 1, or a picture has 8 GiB.
    """
    if max_samples_per_shard < 1:
        raise ValueError(f"max_samples_per_shard is at least 1, not {max_samples_per_shard}")
    numbered = enumerate(pages)
    shards: list[Shard] = []
    while (first := next(numbered, None)) is not None:
        of_shard = chain([first], islice(numbered, max_samples_per_shard - 1))
        shards.append(_write_shard(folder / f"{split}-{len(shards):06d}.tar", split, of_shard, image_format))
    return SplitIndex(shardlist=shards)


def _write_shard(path: Path, split: Split, pages: Iterable[tuple[int, SpooledPage]], image_format: str) -> Shard:
    digest = hashlib.sha256()
    samples = size = 0
    with path.open("wb") as stream:
        for number, page in pages:
            key = f"{split}-{number:08d}"
            blocks = b"".join((*_member(f"{key}.{image_format}", page.image), *_member(f"{key}.json", page.metadata)))
            stream.write(blocks)
            digest.update(blocks)
            samples, size = samples + 1, size + len(blocks)
        # Two empty blocks end a tar; tarfile and GNU tar fill the last record of 20 blocks.
        end = bytes(2 * tarfile.BLOCKSIZE + -(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)
        stream.write(end)
        digest.update(end)
    return Shard(url=path.name, nsamples=samples, filesize=size + len(end), sha256=digest.hexdigest())


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the header, the content, and what fills its last block.

    ``TarInfo.tobuf`` takes 15 us for a header; only the name, the size and the checksum (POSIX.1-1988: the sum of
    all bytes, its own eight as spaces) differ from one to the next.
    """
    size = len(content)
    if size >= _SIZE_LIMIT:
        raise ValueError(f"{name} has {size} bytes, a tar's member less than {_SIZE_LIMIT}")
    front = b"".join((name.encode("ascii").ljust(100, b"\0"), _HEADER[100:124], b"%011o\0" % size, _HEADER[136:148]))
    checksum = sum(front) + _REST_SUM
    return b"".join((front, b"%06o\0 " % checksum, _HEADER[156:])), content, bytes(-size % tarfile.BLOCKSIZE)
