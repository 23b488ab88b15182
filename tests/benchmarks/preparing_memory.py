"""Memory use when preparing many short documents: ``python -m tests.benchmarks.preparing_memory DOCUMENTS``.

Prints documents, pages, seconds and the peak resident memory of this process and its two workers together, in MB.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path

import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=int)
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args().documents, Path(folder))


def measure(count: int, folder: Path) -> None:
    from components.prepare.config import PrepareConfig
    from components.prepare.step import run

    write_documents(folder / "texts.jsonl", count)
    watch = MemoryWatch()
    started = time.monotonic()
    manifest = run(PrepareConfig(output_dir=folder / "dataset", source=str(folder / "texts.jsonl"), workers=2))
    pages = sum(index.samples for index in manifest.splits.values())
    seconds = time.monotonic() - started
    print(f"{count} documents, {pages} pages, {seconds:.0f} s, {watch.stop() / 2**20:.0f} MB, {manifest.dropped}")


def write_documents(path: Path, count: int) -> None:
    from pydoc_data.topics import topics

    words = [word for text in topics.values() for word in text.split() if word.isalpha()]
    choice = random.Random(3)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            stream.write(json.dumps({"text": " ".join(choice.choices(words, k=12))}) + "\n")


class MemoryWatch:
    """Samples the resident memory of this process and its children twice a second."""

    def __init__(self) -> None:
        self._highest = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the highest sum that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._highest

    def _look(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.5):
            used = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    used += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self._highest = max(self._highest, used)


if __name__ == "__main__":
    main()
