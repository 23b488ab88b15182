"""The formats that ``reading`` compares: each function stores the pages and returns its readers by name."""

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Item = tuple[np.ndarray, str]
Order = Sequence[int] | None
"""The samples' numbers in the order in which they are read; None: in sequence."""
Reader = Callable[[Order], Iterator[Item]]


def our_shards(samples: list[tuple[bytes, str]], folder: Path) -> dict[str, Reader]:
    import cv2

    from components.prepare.output.merged_pages import SpooledPage
    from components.prepare.output.shards import write_shards
    from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, manifest_digest
    from components.shared.datasets.shard_reader import Sample, ShardDataset

    folder.mkdir()
    pages = [SpooledPage(n, n, png, json.dumps({"text": text}).encode()) for n, (png, text) in enumerate(samples)]
    index = write_shards(pages, "train", folder, "png", 100)
    content: dict[str, Any] = {
        "schema_version": 1,
        "splits": {"train": index.model_dump(), "eval": {"wids_version": 1, "shardlist": []}},
        "documents": {"train": len(samples), "eval": 0},
        "dropped": {},
        "source_digest": "",
        "config": {},
        "config_digest": "",
        "fonts": {},
        "layout_engine": "none",
        "tool_version": "benchmark",
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content | {"digest": manifest_digest(content)}))
    dataset = ShardDataset(folder, "train")

    def reader(levels: Callable[[Sample], np.ndarray]) -> Reader:
        def read(order: Order) -> Iterator[Item]:
            for number in range(len(dataset)) if order is None else order:
                sample = dataset[number]
                yield levels(sample), sample.text

        return read

    return {
        "our shards": reader(lambda sample: sample.gray),
        "our shards, RGB by Pillow": reader(lambda sample: np.asarray(sample.image)),
        "our shards, OpenCV": reader(lambda sample: cv2.imdecode(np.frombuffer(sample.image_bytes, np.uint8), 0)),
    }


def webdataset_alone(folder: Path) -> dict[str, Reader]:
    import cv2
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def pil(order: Order) -> Iterator[Item]:
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("pil"):
            yield np.asarray(sample["png"]), sample["json"]["text"]

    def opencv(order: Order) -> Iterator[Item]:
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            yield cv2.imdecode(np.frombuffer(sample["png"], np.uint8), 0), json.loads(sample["json"])["text"]

    return {'webdataset, decode("pil") (RGB)': pil, "webdataset, OpenCV": opencv}


def hugging_face(samples: list[tuple[bytes, str]], shards: Path, folder: Path) -> dict[str, Reader]:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [{"bytes": png, "path": None} for png, _ in samples], "text": [text for _, text in samples]}
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "pages.parquet")
    cache = {"split": "train", "cache_dir": str(folder / "cache")}
    parquet = datasets.load_dataset("parquet", data_files=str(folder / "pages.parquet"), **cache)
    tars = {"data_files": {"train": [str(path) for path in sorted(shards.glob("*.tar"))]}, **cache}
    from_tars = datasets.load_dataset("webdataset", **tars)
    streamed = datasets.load_dataset("webdataset", streaming=True, **tars)

    def of_parquet(order: Order) -> Iterator[Item]:
        for row in parquet if order is None else (parquet[number] for number in order):
            yield np.asarray(row["image"]), row["text"]

    def of_tars(order: Order) -> Iterator[Item]:
        for row in from_tars if order is None else (from_tars[number] for number in order):
            yield np.asarray(row["png"]), row["json"]["text"]

    def of_stream(order: Order) -> Iterator[Item]:
        for row in streamed:
            yield np.asarray(row["png"]), row["json"]["text"]

    return {
        "Hugging Face parquet": of_parquet,
        "Hugging Face webdataset": of_tars,
        "Hugging Face webdataset, streaming": of_stream,
    }


def litdata_formats(samples: list[tuple[bytes, str]], folder: Path) -> dict[str, Reader]:
    try:
        import litdata
    except ImportError as error:
        print(f"litdata is left out: {error}", file=sys.stderr)
        return {}
    import cv2

    stored = {
        "litdata, PNG and OpenCV": [{"image": png, "text": text} for png, text in samples],
        "litdata, raw pixels": [{"image": Image.open(io.BytesIO(png)), "text": text} for png, text in samples],
    }
    readers: dict[str, Reader] = {}
    for name, rows in stored.items():
        cache = litdata.streaming.cache.Cache(str(folder / name), chunk_bytes="64MB")
        for number, row in enumerate(rows):
            cache[number] = row
        cache.done()
        cache.merge()
        dataset = litdata.StreamingDataset(str(folder / name))

        def read(order: Order, dataset: Any = dataset) -> Iterator[Item]:
            for row in dataset if order is None else (dataset[number] for number in order):
                picture = row["image"]
                packed = isinstance(picture, bytes)
                yield cv2.imdecode(np.frombuffer(picture, np.uint8), 0) if packed else np.asarray(picture), row["text"]

        readers[name] = read
    return readers
