"""What it costs to open foreign documents and uploads in a child process with limits, compared with this process.

    python -m tests.benchmarks.document_limits --rounds 7 --json docs/benchmarks/dataset/document_limits.json

Rounds are interleaved, the figures are medians of CPU time (this process and its ended children) and of wall time per
document. The start of the first child and of the fork server is not in them; it is measured apart.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from components.prepare.documents.document import Document
from components.prepare.rendering.page_pictures import load_page
from components.prepare.rendering.picture_loader import PictureLoader
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.serve.documents.opening import PageFile, read_pages
from components.serve.documents.page_opener import PageOpener
from components.shared.foreign_files.limits import ReadingLimits
from tests.benchmarks.preparing import documents, processor
from tests.fixtures.pdf_files import write_pdf

LIMITS = ReadingLimits()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cases = made(Path(folder))
        print(f"made in {time.perf_counter() - started:.0f} s")
        start = first_start(Path(folder))
        print(f"first child with the fork server: {start[0]:.2f} s, another child: {start[1] * 1000:.1f} ms")
        figures: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"here": [], "child": []} for name in cases}
        for _ in range(arguments.rounds):
            for name, (count, ways) in cases.items():
                for way, work in ways.items():
                    figures[name][way].append(measured(work, count))
    report(figures, start, arguments.json)


def made(folder: Path) -> dict[str, tuple[int, dict[str, Callable[[], object]]]]:
    """Return name -> number of documents, and the two ways to read them."""
    texts = documents(6000, seed=1)
    (folder / "rows").mkdir()
    (folder / "rows" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for kind in ("texts", "pdfs", "scans"):
        (folder / kind).mkdir()
    for number, text in enumerate(texts[:2000]):
        (folder / "texts" / f"{number:04}.txt").write_text(text)
    for number in range(60):
        lines = "\n".join(texts[number][place : place + 60] for place in range(0, 1800, 60))
        write_pdf(folder / "pdfs" / f"{number:02}.pdf", [lines])
    write_scans(folder, list(read_documents(SourceSettings(source=str(folder / "pdfs")))))
    cases: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {}
    for name, source, count in (
        ("rows of .jsonl", folder / "rows", 6000),
        ("files .txt", folder / "texts", 2000),
        ("PDFs, text", folder / "pdfs", 60),
        ("texts of scans", f"images:{folder / 'scans'}", 60),
    ):
        settings = SourceSettings(source=str(source))
        cases[name] = (
            count,
            {
                "here": lambda s=settings: list(read_documents(s)),
                "child": lambda s=settings: list(read_documents(s, LIMITS)),
            },
        )  # type: ignore[misc]
    for name, source in (("PDFs, picture", str(folder / "pdfs")), ("scans, picture", f"images:{folder / 'scans'}")):
        pictures = [
            picture
            for document in read_documents(SourceSettings(source=source))
            if isinstance(document, Document)
            for picture in document.pictures
        ]
        loader = PictureLoader(LIMITS, 1288, 64_000_000)
        cases[name] = (
            len(pictures),
            {
                "here": lambda p=pictures: [load_page(picture, 1288) for picture in p],  # type: ignore[misc]
                "child": lambda p=pictures, one=loader: [one.load(picture) for picture in p],  # type: ignore[misc]
            },
        )
    return cases | uploads(folder)


def uploads(folder: Path) -> dict[str, tuple[int, dict[str, Callable[[], object]]]]:
    """Return the two ways to open what a client sends to the service; the child is the one that stays between them."""
    opener = PageOpener(1, LIMITS)
    line = io.BytesIO()
    Image.new("L", (280, 56), 255).save(line, "PNG")
    contents = {
        "uploads, line PNG": [line.getvalue()] * 100,
        "uploads, A4 JPEG": [path.read_bytes() for path in sorted((folder / "scans").glob("*.jpg"))],
        "uploads, PDF": [path.read_bytes() for path in sorted((folder / "pdfs").iterdir())],
    }

    def here(files: list[PageFile]) -> None:
        for file in files:
            [Image.fromarray(page).convert("RGB") for page in read_pages(None, file)]

    def child(files: list[PageFile]) -> None:
        for file in files:
            opener.opened(file, time.monotonic() + 3600).result()

    cases: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {}
    for name, of_case in contents.items():
        files = [PageFile(content, 64_000_000) for content in of_case]
        cases[name] = (len(files), {"here": partial(here, files), "child": partial(child, files)})
    return cases


def write_scans(folder: Path, pages: list[object]) -> None:
    for number, document in enumerate(page for page in pages if isinstance(page, Document)):
        page = Image.fromarray(load_page(document.pictures[0], 2200))
        stream = io.BytesIO()
        page.save(stream, "JPEG", quality=85)
        (folder / "scans" / f"{number:02}.jpg").write_bytes(stream.getvalue())
        (folder / "scans" / f"{number:02}.txt").write_text(document.text)


def first_start(folder: Path) -> tuple[float, float]:
    settings = SourceSettings(source=str(folder / "texts"), max_documents=1)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        list(read_documents(settings, LIMITS))
        seconds.append(time.perf_counter() - started)
    return seconds[0], statistics.median(seconds[1:])


def measured(work: Callable[[], object], count: int) -> tuple[float, float]:
    """Return milliseconds of CPU time and of wall time per document."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    return 1000 * (sum(os.times()[:4]) - cpu) / count, 1000 * (time.perf_counter() - wall) / count


def report(
    figures: dict[str, dict[str, list[tuple[float, float]]]], start: tuple[float, float], path: Path | None
) -> None:
    print(f"{'':18}{'ms here':>10}{'ms child':>10}{'more':>8}   (wall, per document; medians)")
    for name, ways in figures.items():
        here, child = (statistics.median(wall for _, wall in ways[way]) for way in ("here", "child"))
        print(f"{name:18}{here:10.3f}{child:10.3f}{child - here:8.3f}")
    if path:
        content = {"processor": processor(), "start_seconds": start, "cpu_and_wall_ms_per_document": figures}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
