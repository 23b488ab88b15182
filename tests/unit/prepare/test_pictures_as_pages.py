"""Pages that are taken as they are: their size, what is said about small letters, and limits that keep documents."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from components.prepare.config import PrepareConfig
from components.prepare.output.preview import PREVIEW_FILE
from components.prepare.step import run
from components.prepare.typesetting.fonts import find_fonts
from components.shared.artifacts.dataset_manifest import DatasetManifest, read_manifest
from components.shared.datasets.shard_reader import Sample, ShardDataset
from tests.fixtures.pdf_files import write_pdf

LINES = [f"Line {number} of a letter about rivers, stones and lamps" for number in range(30)]


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def scan(folder: Path, name: str, font_size: int, scale: float = 1.0) -> None:
    """Write a page of 800 x 1100 pixels with its text beside it; ``scale`` makes the picture smaller or larger."""
    folder.mkdir(exist_ok=True)
    picture = Image.new("L", (800, 1100), 250)
    font = ImageFont.truetype(str(find_fonts(["DejaVuSans.ttf"])[0].path), font_size)
    lines = [f"{name} {line}" for line in LINES[: 1000 // (2 * font_size)]]
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text((40, 40 + number * 2 * font_size), line, fill=10, font=font)
    size = round(800 * scale), round(1100 * scale)
    picture.resize(size, Image.Resampling.LANCZOS).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text("\n".join(lines))


def made(source: str, output_dir: Path, **settings: Any) -> DatasetManifest:
    values = {"eval_fraction": 0, "workers": 1, "near_duplicate_threshold": None, **settings}
    return run(PrepareConfig(source=source, output_dir=output_dir, **values))


def pages(folder: Path, split: Any = "train") -> dict[str, Sample]:
    dataset = ShardDataset(folder, split)
    return {
        f"{page.metadata['source_id']}:{page.metadata['page']}": page
        for page in map(dataset.__getitem__, range(len(dataset)))
    }


def test_pages_of_pdfs_and_scans_have_their_own_size(tmp_path: Path) -> None:
    scan(tmp_path / "scans", "large", 20, scale=2)
    scan(tmp_path / "scans", "small", 20)
    write_pdf(tmp_path / "report.pdf", ["\n".join(LINES)])
    (tmp_path / "text.txt").write_text("A text that is drawn.")
    sources = {"source": f"images:{tmp_path / 'scans'}", "more_sources": [{"source": str(tmp_path / "report.pdf")}]}
    sources["more_sources"] += [{"source": str(tmp_path / "text.txt")}]
    made(output_dir=tmp_path / "whole", page_height=112, **sources)
    found = {name: page.image.size for name, page in pages(tmp_path / "whole").items()}
    assert {size for name, size in found.items() if "text" in name} == {(420, 112)}, "drawn pages keep their own size"
    assert found["large.png:1"] == (937, 1288) and found["small.png:1"] == (800, 1100)
    assert max(found["report.pdf:1"]) == 1288
    made(output_dir=tmp_path / "smaller", picture_longest_edge=500, resolutions=["tiny"], **sources)
    smaller = pages(tmp_path / "smaller")
    assert {max(page.image.size) for name, page in smaller.items() if "text" not in name} == {500}
    assert smaller["report.pdf:1"].metadata["mode"] is None and smaller["text.txt:1"].metadata["mode"] == "tiny"


def test_pages_with_small_letters_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        scan(tmp_path / "scans", f"tiny{number}", 20, scale=0.3)
    scan(tmp_path / "scans", "fine", 20)
    with caplog.at_level(logging.WARNING, "components.prepare"):
        manifest = made(f"images:{tmp_path / 'scans'}", tmp_path / "data")
    letters = manifest.letter_heights
    assert letters is not None and letters == read_manifest(tmp_path / "data").letter_heights
    assert (letters.pages, letters.small_pages, letters.min_letter_height) == (4, 3, 8)
    assert [name.split(" (")[0] for name in letters.small_names] == ["tiny0.png", "tiny1.png", "tiny2.png"]
    heights = {name: page.metadata["letter_height"] for name, page in pages(tmp_path / "data").items()}
    assert heights["fine.png:1"] > 8 > heights["tiny0.png:1"] > 2
    assert f"tiny0.png ({heights['tiny0.png:1']:g} px)" in letters.small_names
    (said,) = [record.getMessage() for record in caplog.records if "letters lower" in record.getMessage()]
    assert said.startswith("3 of 4 pages of PDFs and scans") and "tiny0.png" in said and "picture_longest_edge" in said
    preview = (tmp_path / "data" / PREVIEW_FILE).read_text(encoding="utf-8")
    assert "<b>3</b> they are lower than 8.0 pixels" in preview and "letters of" in preview
    lenient = made(f"images:{tmp_path / 'scans'}", tmp_path / "lenient", min_letter_height=2)
    assert lenient.letter_heights is not None and lenient.letter_heights.small_pages == 0


def test_drawn_pages_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A text that is drawn.")
    manifest = made(str(tmp_path / "text.txt"), tmp_path / "data")
    assert manifest.letter_heights is None
    (page,) = pages(tmp_path / "data").values()
    assert "letter_height" not in page.metadata


def long_and_short_documents(path: Path) -> str:
    """Write one document of many pages, and nine of one page."""
    texts = [
        " ".join(f"word{document}x{place}" for place in range(900 if document == 0 else 6)) for document in range(10)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("renderings", [1, 2])
def test_a_limit_of_evaluation_pages_drops_no_document(tmp_path: Path, renderings: int) -> None:
    source = long_and_short_documents(tmp_path / "rows.jsonl")
    settings = {"eval_fraction": 0.95, "seed": 3, "renderings_per_document": renderings}
    whole = made(source, tmp_path / "whole", **settings)
    documents = whole.documents["eval"]
    assert documents >= 8 and whole.splits["eval"].samples > 3 * documents
    for limit in (documents, documents + 3):
        limited = made(source, tmp_path / f"limited{limit}", max_eval_pages=limit, **settings)
        assert limited.splits["eval"].samples == limit and limited.documents["eval"] == documents
        kept, offered = pages(tmp_path / f"limited{limit}", "eval"), pages(tmp_path / "whole", "eval")
        assert kept.keys() <= offered.keys()
        if renderings == 2 and limit == documents:
            many = made(source, tmp_path / "many", max_eval_pages=limit, workers=2, **settings)
            assert many.digest == limited.digest, "timing does not decide"
    fewer = made(source, tmp_path / "fewer", max_eval_pages=3, **settings)
    assert fewer.documents["eval"] == fewer.splits["eval"].samples == 3


@pytest.mark.parametrize(("needed", "warns"), [(3, False), (4, True)])
def test_too_few_documents_for_the_gate_are_told_at_the_end(
    tmp_path: Path, needed: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "held").mkdir()
    for number in range(3):
        (tmp_path / "held" / f"{number}.txt").write_text(f"Held-out text number {number}.")
    (tmp_path / "text.txt").write_text("A text to learn from.")
    holdout = {"source": str(tmp_path / "held")}
    with caplog.at_level(logging.WARNING, "components.prepare"):
        manifest = made(str(tmp_path / "text.txt"), tmp_path / "data", holdout=holdout, min_eval_documents=needed)
    assert manifest.documents["eval"] == 3 and "min_eval_documents" not in manifest.config
    said = [record.getMessage() for record in caplog.records if "held out" in record.getMessage()]
    assert len(said) == warns
    if warns:
        assert said[0].startswith("3 documents are held out for evaluation, and the gate promotes only from 4 on")
        assert all(way in said[0] for way in ("eval_fraction", "holdout", "min_documents"))
