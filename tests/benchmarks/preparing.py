"""Pages per second from text to finished shards: ours with one and two processes, compared with a naive loop.

    python -m tests.benchmarks.preparing --documents 1500 --rounds 5 --json preparing.json

Every contender gets documents that its process has not seen before: English words in random order, about 2,000
characters, on pages of 1024x1024. Each measurement is a new process; its imports are not counted, the start of the
worker processes is. Rounds are interleaved, the figures are medians. The naive loop is a simple first version: Pillow
measures line by line, RGB, PNG as Pillow saves it, webdataset's ShardWriter; it checks nothing and drops nothing.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAGE = 1024
MARGIN = 48
FONT_SIZE = 22
CHARACTERS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1500, help="documents (one page each) for ours")
    parser.add_argument("--naive-documents", type=int, default=100, help="documents for the naive loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text-engine", default="auto", help="auto, pango or pillow")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        contender, count, seed, engine = arguments.measure.split(":")
        print(json.dumps(measured(contender, int(count), int(seed), engine)))
        return
    contenders = {
        "naive": arguments.naive_documents,
        "1 process": arguments.documents,
        "2 processes": arguments.documents,
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for place, (name, count) in enumerate(contenders.items()):
            task = f"{name}:{count}:{1 + number * len(contenders) + place}:{arguments.text_engine}"
            rounds[name].append(in_a_process(task, cores=2 if name == "2 processes" else 1))
            print(f"round {number + 1}, {name}: {rounds[name][-1]['pages_per_second']:.1f} pages/s", file=sys.stderr)
    report(rounds, arguments)


def in_a_process(task: str, cores: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.preparing", "--measure", task]
    chosen = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        ["taskset", "-c", chosen, *command], stdout=subprocess.PIPE, check=True, text=True, env=environment
    )
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def measured(contender: str, count: int, seed: int, engine: str) -> dict[str, Any]:
    texts = documents(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        seconds, pages, engine_name = (
            naive(texts, Path(folder)) if contender == "naive" else ours(texts, Path(folder), int(contender[0]), engine)
        )
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.tar"))
    return {
        "pages_per_second": pages / seconds,
        "seconds": seconds,
        "pages": pages,
        "bytes_per_page": size / pages,
        "engine": engine_name,
    }


def documents(count: int, seed: int) -> list[str]:
    from pydoc_data.topics import topics

    words = [word for text in topics.values() for word in text.split() if word.isalpha()]
    random_words = random.Random(seed)
    texts = []
    for _ in range(count):
        paragraphs = [" ".join(random_words.choices(words, k=66)) for _ in range(5)]
        texts.append("\n\n".join(paragraphs)[:CHARACTERS])
    return texts


def naive(texts: list[str], folder: Path) -> tuple[float, int, str]:
    import PIL
    import webdataset
    from PIL import Image, ImageDraw, ImageFont

    from components.prepare.typesetting.fonts import find_fonts

    path = find_fonts(["DejaVuSans.ttf"])[0].path
    started = time.perf_counter()
    font = ImageFont.truetype(str(path), FONT_SIZE)
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=1000, verbose=0) as writer:
        for number, text in enumerate(texts):
            image = Image.new("RGB", (PAGE, PAGE), "white")
            draw = ImageDraw.Draw(image)
            top = MARGIN
            for paragraph in text.split("\n\n"):
                line = ""
                for word in paragraph.split():
                    longer = f"{line} {word}".strip()
                    if draw.textlength(longer, font=font) > PAGE - 2 * MARGIN:
                        draw.text((MARGIN, top), line, fill="black", font=font)
                        top, line = top + round(1.25 * FONT_SIZE), word
                    else:
                        line = longer
                draw.text((MARGIN, top), line, fill="black", font=font)
                top += round(1.25 * FONT_SIZE)
            writer.write({"__key__": f"{number:08d}", "png": image, "json": {"text": text}})
    return time.perf_counter() - started, len(texts), f"pillow-{PIL.__version__}"


def ours(texts: list[str], folder: Path, workers: int, engine: str) -> tuple[float, int, str]:
    from components.prepare.config import PrepareConfig
    from components.prepare.step import run

    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = PrepareConfig(
        output_dir=folder / "dataset",
        source=str(source),
        text_engine=engine,  # type: ignore[arg-type]
        resolutions=["base"],
        font_sizes=[FONT_SIZE],
        margin=(MARGIN, MARGIN),
        workers=workers,
    )
    started = time.perf_counter()
    manifest = run(config)
    seconds = time.perf_counter() - started
    assert not manifest.dropped, manifest.dropped
    return seconds, sum(index.samples for index in manifest.splits.values()), manifest.layout_engine


def report(rounds: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    medians = {name: statistics.median(run["pages_per_second"] for run in runs) for name, runs in rounds.items()}
    print(f"\n{'':14}{'pages/s':>9}{'lowest':>9}{'highest':>9}{'ratio to naive':>16}{'kB/page':>9}")
    for name, runs in rounds.items():
        speeds = [run["pages_per_second"] for run in runs]
        size = statistics.median(run["bytes_per_page"] for run in runs) / 1000
        ratio = medians[name] / medians["naive"]
        print(f"{name:14}{medians[name]:9.1f}{min(speeds):9.1f}{max(speeds):9.1f}{ratio:16.2f}{size:9.1f}")
    print(f"2 processes to 1: {medians['2 processes'] / medians['1 process']:.2f}")
    if arguments.json:
        content = {
            "command": " ".join(["python", "-m", "tests.benchmarks.preparing", *sys.argv[1:]]),
            "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
            "medians_pages_per_second": medians,
            "rounds": rounds,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
