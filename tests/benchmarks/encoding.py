"""Milliseconds to write and to read one PNG of a text page: ours compared with Pillow and OpenCV, on one core.

    python -m tests.benchmarks.encoding --pages 48 --rounds 7 --json encoding.json

The pages are those of ``tests.benchmarks.reading``. All readers read PNGs written by ``encode_png``. Rounds are
interleaved, figures are medians over all pages and rounds.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.reading import drawn_page, machine, use_one_core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    use_one_core()
    milliseconds, sizes = encoders([drawn_page(number)[0] for number in range(arguments.pages)], arguments.rounds)
    result = {
        "command": " ".join(["python", "-m", "tests.benchmarks.encoding", *sys.argv[1:]]),
        "machine": machine(),
        "milliseconds_a_page": milliseconds,
        "bytes_a_page": sizes,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def encoders(pages: list[np.ndarray], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the milliseconds of processor time that each encoder and decoder takes per PNG, and the bytes written."""
    import cv2

    from components.prepare.output.png import encode_png
    from components.shared.datasets.page_decoding import decode_gray

    def pillow(page: np.ndarray, **options: Any) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(page).save(stream, "PNG", **options)
        return stream.getvalue()

    writers: dict[str, Callable[[Any], bytes]] = {
        "encode_png": encode_png,
        "Pillow, default": pillow,
        "Pillow, compress_level=1": lambda page: pillow(page, compress_level=1),
        "Pillow, RGB, default": lambda page: pillow(np.dstack([page] * 3)),
        "OpenCV, default": lambda page: cv2.imencode(".png", page)[1].tobytes(),
    }
    readers: dict[str, Callable[[Any], Any]] = {
        "decode_gray": decode_gray,
        "OpenCV": lambda png: cv2.imdecode(np.frombuffer(png, np.uint8), 0),
        "Pillow": lambda png: np.asarray(Image.open(io.BytesIO(png))),
        "Pillow, RGB": lambda png: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")),
    }
    packed = [encode_png(page) for page in pages]
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way, work, inputs in [("write", writers, pages), ("read", readers, packed)]:
            for name, function in work.items():
                for value in inputs:
                    start = time.thread_time()  # elapsed time would include other programs, mostly for slow encoders
                    function(value)
                    seconds.setdefault(f"{way}: {name}", []).append(time.thread_time() - start)
    times = {name: round(statistics.median(values) * 1e3, 3) for name, values in seconds.items()}
    sizes = {name: statistics.mean(len(write(page)) for page in pages) for name, write in writers.items()}
    for name, milliseconds in times.items():
        size = sizes.get(name.removeprefix("write: "))
        print(
            f"{name:34}{milliseconds:9.3f} ms" + (f"{size:12,.0f} bytes" if name.startswith("write") and size else "")
        )
    return times, sizes


if __name__ == "__main__":
    main()
