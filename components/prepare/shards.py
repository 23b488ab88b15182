"""Drawn pages written as WebDataset shards, the same bytes every time."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import webdataset

from components.prepare.drawing import DrawnPage
from components.shared.dataset_manifest import Shard, Split, SplitIndex
from components.shared.lineage import sha256_file


def write_shards(
    drawn_pages: Iterable[DrawnPage], split: Split, folder: Path, image_format: str, max_samples_per_shard: int
) -> SplitIndex:
    """Write ``<split>-000000.tar``, … and return their index; no pages, no shard."""
    shards: list[Shard] = []
    counts: list[int] = []

    def finished(path: str) -> None:
        file = Path(path)
        shards.append(Shard(url=file.name, nsamples=0, filesize=file.stat().st_size, sha256=sha256_file(file)))

    writer: webdataset.ShardWriter | None = None
    for number, drawn in enumerate(drawn_pages):
        if writer is None:
            writer = webdataset.ShardWriter(
                str(folder / f"{split}-%06d.tar"),
                maxcount=max_samples_per_shard,
                maxsize=math.inf,  # its default of 3 GB would cut shards that the counts below do not know of
                post=finished,
                verbose=0,
                encoder=False,
                mtime=0,
                user="deepsynth",
                group="deepsynth",
            )
        if number % max_samples_per_shard == 0:
            counts.append(0)
        counts[-1] += 1
        metadata = json.dumps(drawn.metadata, ensure_ascii=False, sort_keys=True).encode("utf-8")
        writer.write({"__key__": f"{split}-{number:08d}", image_format: drawn.image, "json": metadata})
    if writer is not None:
        writer.close()
    return SplitIndex(
        shardlist=[shard.model_copy(update={"nsamples": count}) for shard, count in zip(shards, counts, strict=True)]
    )
