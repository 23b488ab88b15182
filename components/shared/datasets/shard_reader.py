"""Random access to the samples in a dataset's shards."""

import io
import json
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.shared.artifacts.dataset_manifest import Split, read_manifest, verify_shards
from components.shared.datasets.page_decoding import decode_gray, decode_unfiltered_png
from components.shared.datasets.shard_index import ShardIndex, index_shard
from components.shared.errors import UserError
from components.shared.page_reader.pictures import FORMATS

_OPEN_SHARDS = 128
"""Open files per process: the default limit is 1,024, and a million pages are a thousand shards."""


@dataclass(frozen=True)
class Sample:
    """One page: its encoded picture and its metadata, including the label."""

    key: str
    image_bytes: bytes
    metadata: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.metadata["text"])

    @property
    def instruction(self) -> str | None:
        return self.metadata.get("instruction")

    @cached_property
    def gray(self) -> npt.NDArray[np.uint8]:
        """The page's grey levels, (H, W) uint8.

        Raises:
            OSError: not a picture, or one that is truncated, corrupt or larger than Pillow opens.
        """
        with _refusals_as_os_error():
            return decode_gray(self.image_bytes)

    @cached_property
    def image(self) -> Image.Image:
        """The page as an RGB picture.

        Raises:
            OSError: not a picture, or one that is truncated, corrupt or larger than Pillow opens.
        """
        levels = decode_unfiltered_png(self.image_bytes)
        if levels is None:
            with _refusals_as_os_error():
                return Image.open(io.BytesIO(self.image_bytes), formats=FORMATS).convert("RGB")
        page = Image.fromarray(levels)
        return Image.merge("RGB", (page, page, page))  # 0.22 ms for 1024x1024; convert("RGB") 0.50 ms


class ShardDataset:
    """The samples of one split by index, in shard order; a map-style dataset for torch.

    Opening the dataset checks the shards against the manifest's sha256. Each process opens its own files when it needs
    them and reads at explicit offsets, so data-loader workers may be forked or spawned.

    Args:
        verify: False skips the comparison with the sha256, for callers that have just written the shards.

    Raises:
        UserError: the manifest is missing, a shard is missing or corrupt, or the split has no samples.
    """

    def __init__(self, folder: Path, split: Split, verify: bool = True) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if verify:
            verify_shards(folder, self.manifest, split)
        shards = self.manifest.splits[split].shardlist
        self._paths = [folder / shard.url for shard in shards]
        self._indexes = [index_shard(path) for path in self._paths]
        for path, shard, index in zip(self._paths, shards, self._indexes, strict=True):
            if len(index) != shard.nsamples:
                raise UserError(
                    f"the shard holds {len(index)} samples, but the manifest says {shard.nsamples}",
                    where=str(path),
                    mend="prepare the data again",
                )
        self._ends = np.cumsum([len(index) for index in self._indexes], dtype=np.int64)
        self._opened = _shards_kept_open()
        if not len(self):
            raise UserError(f"the split {split!r} has no samples", where=str(folder), mend="prepare more documents")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        opened, shard, row, metadata = self._found(index)
        image_offset, image_size = shard.spans[row, :2].tolist()
        return Sample(shard.key(row), opened.read(image_offset, image_size), metadata)

    def metadata(self, index: int) -> dict[str, Any]:
        """Return a page's metadata without reading its picture."""
        return self._found(index)[3]

    def _found(self, index: int) -> tuple["_OpenShard", ShardIndex, int, dict[str, Any]]:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, position, side="right"))
        shard = self._indexes[number]
        row = position - int(self._ends[number]) + len(shard)
        metadata_offset, metadata_size = shard.spans[row, 2:].tolist()
        opened = self._opened(self._paths[number])
        try:
            metadata = json.loads(opened.read(metadata_offset, metadata_size))
        except ValueError as error:
            where = f"{self._paths[number]}, sample {shard.key(row)}"
            raise UserError(
                f"the metadata is not valid JSON ({error})", where=where, mend="prepare the data again"
            ) from error
        return opened, shard, row, metadata

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened=_shards_kept_open())


class _OpenShard:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        content = os.pread(self._descriptor, size, offset)
        if len(content) != size:
            raise UserError("the shard was truncated during use", where=str(self._path), mend="prepare the data again")
        return content


@contextmanager
def _refusals_as_os_error() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each format's reader has its own: SyntaxError, ValueError, DecompressionBombError, …
        raise OSError(f"the picture cannot be decoded ({type(error).__name__}: {error})") from error


def _shards_kept_open() -> Callable[[Path], _OpenShard]:
    # Threads may share it: a shard that drops out of the cache closes when no thread reads it any more.
    return lru_cache(_OPEN_SHARDS)(_OpenShard)
