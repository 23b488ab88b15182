"""Random access to the samples of a dataset's shards."""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from components.shared.dataset_manifest import Split, read_manifest, verify_shards
from components.shared.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One page: its picture as encoded bytes, its label, and everything the dataset knows of it."""

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
    def image(self) -> Image.Image:
        """The page as an RGB picture."""
        return Image.open(io.BytesIO(self.image_bytes)).convert("RGB")


@dataclass(frozen=True)
class _Place:
    shard: int
    key: str
    image: tuple[int, int]
    """Offset and size in bytes, in the tar file."""
    metadata: tuple[int, int]


class ShardDataset:
    """The samples of one split by index, in shard order; a map-style dataset for ``torch.utils.data``.

    Shards are checked against the manifest's sha256 when the dataset is opened. Files are opened once
    per process, so that data-loader workers do not share a file position.

    Raises:
        UserError: no manifest, a missing or corrupt shard, or a split without samples.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        verify_shards(folder, self.manifest, split)
        self._paths = [folder / shard.url for shard in self.manifest.splits[split].shardlist]
        self._places = [place for index, path in enumerate(self._paths) for place in _places(index, path)]
        self._streams: dict[int, BinaryIO] = {}
        if not self._places:
            raise UserError(f"the split {split!r} has no samples", where=str(folder), mend="prepare more documents")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        place = self._places[index]
        metadata = json.loads(self._read(place.shard, place.metadata))
        return Sample(place.key, self._read(place.shard, place.image), metadata)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streams": {}}

    def _read(self, shard: int, span: tuple[int, int]) -> bytes:
        if shard not in self._streams:
            # Unbuffered: forked workers inherit the descriptor, and os.pread below needs no shared position.
            self._streams[shard] = self._paths[shard].open("rb", buffering=0)
        return os.pread(self._streams[shard].fileno(), span[1], span[0])


def _places(shard: int, path: Path) -> list[_Place]:
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                kind = "metadata" if extension == "json" else "image"
                spans.setdefault(key, {})[kind] = (member.offset_data, member.size)
        return [_Place(shard, key, parts["image"], parts["metadata"]) for key, parts in spans.items()]
    except (tarfile.TarError, KeyError) as error:
        raise UserError(f"not a readable shard ({error})", where=str(path), mend="prepare the data again") from error
