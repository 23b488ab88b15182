"""Samples per second from stored pages to arrays: our shards compared with other formats, on one core.

    python -m tests.benchmarks.reading --pages 400 --rounds 9 --json reading.json

Pages are English-like text of about 2,000 characters, 1024x1024, grey, drawn by Pillow without noise. Every format
stores the same PNG files and the same text (litdata's row "raw pixels" stores pictures with litdata's serializer), is
in the page cache, and is read into the picture's array and its text. Rounds are interleaved, each starting with another
reader; figures are medians. litdata is not a dependency of this project: without it, its rows are left out.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.benchmarks.stored_formats import Item, hugging_face, litdata_formats, our_shards, webdataset_alone

SIZE = 1024
MARGIN = 40
CHARACTERS = 2000
PACKAGES = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "isal",
    "webdataset",
    "datasets",
    "pyarrow",
    "torch",
    "litdata",
)

WAYS = ("sequence", "random", "sequence, processor time", "random, processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write all measurements there")
    arguments = parser.parse_args()
    use_one_core()
    result: dict[str, Any] = {
        "command": " ".join(["python", "-m", "tests.benchmarks.reading", *sys.argv[1:]]),
        "machine": machine(),
        "pages": arguments.pages,
        "rounds": arguments.rounds,
    }
    pages = [drawn_page(number) for number in range(arguments.pages)]
    with tempfile.TemporaryDirectory() as folder:
        result |= measured(pages, Path(folder), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def use_one_core() -> None:
    """Restrict this process and all threads of its libraries to one core."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def machine() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"cpu": names[0].split(": ")[1], "load_average": os.getloadavg()[0], "versions": versions}


def drawn_page(seed: int) -> Item:
    """Return a page of words with English letter frequencies, and its text."""
    chance = random.Random(seed)
    font = ImageFont.load_default(22)
    image = Image.new("L", (SIZE, SIZE), 255)
    draw = ImageDraw.Draw(image)
    words: list[str] = []
    left, top = float(MARGIN), MARGIN
    while sum(map(len, words)) + len(words) < CHARACTERS:
        word = "".join(chance.choices("etaoinshrdlucmfwypvbgk", range(44, 0, -2), k=chance.randint(1, 10)))
        width = font.getlength(word + " ")
        if left + width > SIZE - MARGIN:
            left, top = float(MARGIN), top + 34
        draw.text((left, top), word, font=font, fill=0)
        left += width
        words.append(word)
    return np.asarray(image).copy(), " ".join(words)


def measured(pages: list[Item], folder: Path, rounds: int) -> dict[str, Any]:
    from components.prepare.output.png import encode_png

    samples = [(encode_png(page), text) for page, text in pages]
    shards = folder / "shards"
    readers = our_shards(samples, shards) | webdataset_alone(shards)
    readers |= hugging_face(samples, shards, folder / "hugging_face") | litdata_formats(samples, folder / "litdata")
    for name, read in readers.items():
        check(name, read(None), pages)
    in_sequence_only = {name for name in readers if name.startswith("webdataset") or name.endswith("streaming")}
    speeds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in readers}
    for number in range(rounds):
        names = list(readers)
        order = random.Random(number).sample(range(len(pages)), len(pages))
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for way, asked in (("sequence", None), ("random", order)):
                if asked is None or name not in in_sequence_only:
                    by_clock, by_processor = speed(readers[name](asked), len(pages))
                    speeds[name][way].append(by_clock)
                    speeds[name][f"{way}, processor time"].append(by_processor)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    table = {
        name: {way: round(statistics.median(values), 1) for way, values in ways.items() if values}
        for name, ways in speeds.items()
    }
    report(table)
    opening = {name: [run() for _ in range(rounds)] for name, run in openings(shards, len(pages)).items()}
    for name, values in opening.items():
        print(f"{name}: {statistics.median(values):.1f} ms per 1,000 samples")
    return {
        "png_bytes_a_page": statistics.mean(len(png) for png, _ in samples),
        "characters_a_page": statistics.mean(len(text) for _, text in pages),
        "samples_per_second": table,
        "rounds_samples_per_second": speeds,
        "opening_ms_per_1000_samples": {name: statistics.median(values) for name, values in opening.items()},
    }


def check(name: str, items: Iterable[Item], pages: list[Item]) -> None:
    """Stop if a reader does not return the pages' exact pixels and text; this is also the unmeasured first pass."""
    for number, ((levels, text), (page, expected)) in enumerate(zip(items, pages, strict=True)):
        wanted = page if levels.ndim == 2 else np.dstack([page] * 3)
        if text != expected or not np.array_equal(levels, wanted):
            raise SystemExit(f"{name}: page {number} is not what was stored")


def speed(items: Iterator[Item], expected: int) -> tuple[float, float]:
    """Return the samples per second of elapsed time and of processor time; the latter is the speed when idle."""
    start, processor_start = time.perf_counter(), time.process_time()
    count = sum(1 for levels, text in items if levels.size and text)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    if count != expected:
        raise SystemExit(f"{count} samples were read, not {expected}")
    return count / seconds, count / processor_seconds


def openings(shards: Path, samples: int) -> dict[str, Callable[[], float]]:
    """Return timers, in ms per 1,000 samples, for the parts of opening a dataset."""
    from components.shared.datasets.shard_index import index_shard
    from components.shared.datasets.shard_reader import ShardDataset

    paths = sorted(shards.glob("*.tar"))

    def by_tarfile(path: Path) -> None:
        with tarfile.open(path) as archive:
            archive.getmembers()

    def timer(work: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e6 / samples

        return run

    return {
        "open a dataset": timer(lambda: ShardDataset(shards, "train")),
        "of this, sha256 of the shards": timer(
            lambda: [hashlib.file_digest(path.open("rb"), "sha256") for path in paths]
        ),
        "of this, index the shards": timer(lambda: [index_shard(path) for path in paths]),
        "index them by tarfile instead": timer(lambda: [by_tarfile(path) for path in paths]),
    }


def report(table: dict[str, dict[str, float]]) -> None:
    ours = table["our shards"]["sequence"]
    print(f"{'samples/s on one core':36}{'in sequence':>12}{'at random':>12}{'of ours':>9}{'(by processor time)':>24}")
    for name, ways in table.items():
        figures = [f"{ways[way]:.0f}" if way in ways else "–" for way in WAYS]
        print(
            f"{name:36}{figures[0]:>12}{figures[1]:>12}{ways['sequence'] / ours:9.2f}{figures[2]:>12}{figures[3]:>12}"
        )


if __name__ == "__main__":
    main()
