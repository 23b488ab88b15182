"""The look and content of pages, through ``run``: tasks, sizes, columns, several kinds of sources, arbitrary text."""

import json
import string
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from components.prepare.config import PrepareConfig
from components.prepare.documents.cleaning import clean_text
from components.prepare.rendering.document_renderer import DocumentRenderer
from components.prepare.selection.selected_document import SelectedDocument
from components.prepare.step import run
from components.prepare.typesetting.fonts import covered_code_points, find_fonts
from components.shared.artifacts.dataset_manifest import DatasetManifest, Split
from components.shared.datasets.shard_reader import Sample, ShardDataset
from tests.fixtures.pdf_files import write_pdf
from tests.unit.prepare.test_prepare import ENGINES, prose, write_rows

WHOLE_PAGES: dict[str, Any] = {
    "resolutions": ["small"],
    "font_sizes": [20],
    "margin": (32, 32),
    "ink": (0, 0),
    "paper": (255, 255),
    "near_duplicate_threshold": None,
    "workers": 1,
}


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def made(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> DatasetManifest:
    source = write_rows(folder / "rows.jsonl", rows)
    values = {"source": str(source), "eval_fraction": 0.3, **WHOLE_PAGES, **changes}
    return run(PrepareConfig(output_dir=folder / "data", **values))


def pages_of(folder: Path, *splits: Split) -> list[Sample]:
    datasets = [ShardDataset(folder / "data", split) for split in splits or ("train", "eval")]
    return [dataset[index] for dataset in datasets for index in range(len(dataset))]


def joined(text: str) -> str:
    return " ".join(text.split())


def test_a_whole_page_is_filled_before_the_next_begins(tmp_path: Path) -> None:
    made(tmp_path, [{"text": text} for text in prose(3, words=900)])
    for page in pages_of(tmp_path):
        assert page.gray.shape == (640, 640)
        if page.metadata["page"] < page.metadata["pages"]:
            assert len(page.text.split("\n")) == ((640 - 64) // 25), "a line every 25 pixels"


def test_the_label_can_leave_out_the_line_ends_of_the_page(tmp_path: Path) -> None:
    made(tmp_path, [{"text": text} for text in prose(4, words=60)], label_lines="paragraphs")
    for page in pages_of(tmp_path):
        drawn = page.metadata["drawn_text"]
        assert page.text == page.metadata["original_text"]
        assert page.text.count("\n") < drawn.count("\n") and joined(page.text) == joined(drawn)


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_are_read_one_after_the_other(tmp_path: Path, engine: str) -> None:
    latin = [{"text": " ".join(f"{word}{number}" for number in range(150))} for word in ("one", "two")]
    hebrew = [{"text": " ".join("אבגדה"[number % 5] * (1 + number % 7) for number in range(150))}]
    made(tmp_path, latin + hebrew, columns=[2], text_engine=engine)
    for page in pages_of(tmp_path):
        lines = page.text.split("\n")
        ink = page.gray < 128
        left, right = ink[:, :320].any(axis=1).sum(), ink[:, 320:].any(axis=1).sum()
        assert not ink[:, 313:327].any(), "the gutter is empty"
        assert page.metadata["columns"] == 2 and len(lines) > 23
        first_is_longer = left >= right
        right_to_left = not page.text.isascii()
        assert first_is_longer != right_to_left, "the column that is read first is filled first"


def test_one_page_holds_a_document_to_be_summarized(tmp_path: Path) -> None:
    rows = [{"text": text, "summary": f"Summary {number}"} for number, text in enumerate(prose(5, words=220))]
    rows += [{"text": prose(1, words=30)[0], "summary": "Short"}]
    rows += [{"text": prose(9, words=5000)[8], "summary": "Too long"}, {"text": "Nothing to learn", "summary": " "}]
    manifest = made(
        tmp_path,
        rows,
        task="summarize",
        target_column="summary",
        font_sizes=[30],
        min_font_size=12,
        text_engine="pillow",
    )
    assert manifest.dropped == {"document_does_not_fit": 1, "document_without_target": 1}
    sizes = {}
    for page in pages_of(tmp_path):
        number = int(page.metadata["source_id"].split(":")[1]) - 1
        assert page.text == rows[number]["summary"] and page.metadata["task"] == "summarize"
        assert joined(page.metadata["drawn_text"]) == joined(rows[number]["text"])
        sizes[page.text] = page.metadata["font_size"]
    assert sizes["Short"] == 30 and all(12 <= size < 30 for text, size in sizes.items() if text != "Short")


def test_an_instruction_is_drawn_above_the_text_and_in_no_label(tmp_path: Path) -> None:
    texts = [{"text": text} for text in prose(4, words=500)]
    made(tmp_path, texts, instruction="Read every line of this page aloud", instruction_in_image=True)
    for page in pages_of(tmp_path):
        assert page.instruction == "Read every line of this page aloud"
        assert page.metadata["drawn_text"] == f"{page.instruction}\n{page.text}"
        rows = np.flatnonzero((page.gray < 128).any(axis=1))
        gap = np.diff(rows).max()
        assert gap > 15, "the instruction stands apart from the text"


def test_a_document_is_drawn_in_as_many_looks_as_asked(tmp_path: Path) -> None:
    looks: dict[str, Any] = {
        "fonts": ["DejaVuSans.ttf", "DejaVuSerif.ttf"],
        "resolutions": ["tiny", "640x320", "small"],
        "font_sizes": list(range(14, 30)),
    }
    made(tmp_path, [{"text": text} for text in prose(6, words=30)], renderings_per_document=6, **looks)
    pages = pages_of(tmp_path)
    assert {page.metadata["rendering"] for page in pages} == set(range(6))
    assert {(page.metadata["mode"], page.metadata["resolution"]) for page in pages} == {
        ("tiny", "512x512"),
        ("640x320", "640x320"),
        ("small", "640x640"),
    }
    assert {page.metadata["font"] for page in pages} == {"DejaVuSans", "DejaVuSerif"}
    looks_of: dict[str, set[Any]] = {source: set() for source in {page.metadata["source_id"] for page in pages}}
    for page in pages:
        about = page.metadata
        looks_of[about["source_id"]].add((about["font"], about["mode"], about["font_size"]))
    assert all(len(seen) >= 4 for seen in looks_of.values()), "96 looks are as likely as each other"


def test_augmented_pages_say_what_was_done_to_them(tmp_path: Path) -> None:
    made(tmp_path, [{"text": text} for text in prose(8, words=30)], augmentation={"rotation_degrees": (1, 2)})
    for page in pages_of(tmp_path):
        assert 0 < page.metadata["augmentation"]["rotation_degrees"] <= 2


def test_real_pages_are_mixed_with_drawn_ones_by_weight(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(8):
        image = Image.new("L", (300, 200), 255)
        ImageDraw.Draw(image).text((20, 80), f"Scan number {number}", fill=0)
        image.save(scans / f"{number}.png")
        (scans / f"{number}.txt").write_text(f"Scan number {number}")
    write_pdf(tmp_path / "book.pdf", ["Born digital, page one", "Born digital, page two"])
    more = [{"source": f"images:{scans}", "weight": 0.5}, {"source": str(tmp_path / "book.pdf"), "weight": 0.1}]
    manifest = made(tmp_path, [{"text": text} for text in prose(12, words=20)], more_sources=more)
    pages = pages_of(tmp_path)
    of_scans = [page for page in pages if page.text.startswith("Scan number")]
    of_pdf = [page for page in pages if page.text.startswith("Born digital")]
    drawn = {page.metadata["source_id"] for page in pages if page.metadata["font"]}
    assert (len(drawn), len(of_scans), len(of_pdf)) == (10, 5, 2)
    assert manifest.dropped == {"document_over_weight": 5}
    assert {page.gray.shape for page in of_scans} == {(200, 300)}, "as they are"
    assert {page.gray.shape for page in of_pdf} == {(1288, 920)}, "the size for pages of PDFs"
    assert all(page.gray.min() < 128 for page in of_scans + of_pdf)


def test_a_holdout_is_what_is_evaluated_and_nothing_else(tmp_path: Path) -> None:
    texts = prose(10, words=30)
    holdout = write_rows(tmp_path / "holdout.jsonl", [{"text": text} for text in [texts[3], *prose(14, words=30)[10:]]])
    manifest = made(tmp_path, [{"text": text} for text in texts], holdout={"source": str(holdout)})
    assert manifest.documents == {"train": 9, "eval": 5}
    assert manifest.dropped == {"document_duplicate_across_splits": 1}
    assert {page.metadata["source_id"].split(":")[0] for page in pages_of(tmp_path, "eval")} == {"holdout.jsonl"}


def test_a_broken_file_is_skipped_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, text in enumerate(prose(6, words=20)):
        (folder / f"{number}.txt").write_text(text)
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    (folder / "torn.pdf").write_bytes(b"%PDF-1.7 and no more")
    manifest = made(tmp_path, [], source=str(folder), on_unreadable="skip")
    assert manifest.dropped == {"file_unreadable": 2}
    assert sum(manifest.documents.values()) == 6


def test_a_document_of_a_hundred_thousand_paragraphs_that_no_font_has_is_done_with(tmp_path: Path) -> None:
    rows = [{"text": text} for text in prose(20, words=20)] + [{"text": "\n\n".join(["\u4e2d"] * 100_000)}]
    manifest = made(tmp_path, rows, text_engine="pillow", max_uncovered_share=1)
    assert manifest.dropped == {"paragraph_glyph_missing": 100_000}


FACES = find_fonts(["DejaVuSans.ttf", "DejaVuSansMono.ttf"])
NARROW: dict[str, Any] = {
    "output_dir": Path("unused"),
    "source": "unused",
    "page_width": 110,
    "fonts": ["DejaVuSans.ttf"],
    "lines_per_page": (1, 3),
    "ink": (0, 0),
    "paper": (255, 255),
}
COVERED = "".join(
    letter
    for letter in map(chr, sorted(covered_code_points(FACES[0]) & covered_code_points(FACES[1])))
    if clean_text(f"x{letter}x") == f"x{letter}x"
)
RENDERERS = {
    (engine, reflow): DocumentRenderer(PrepareConfig(text_engine=engine, reflow=reflow, **NARROW), FACES)
    for engine in [getattr(engine, "values", [engine])[0] for engine in ENGINES]
    for reflow in (True, False)
    if engine != "pango" or not ENGINES[0].marks[0].args[0]  # type: ignore[union-attr]
}


def rendered(text: str, engine: tuple[str, bool]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    document = SelectedDocument(0, "fuzzed", text, None, "und", "train")
    result = RENDERERS[engine].render(document, {})
    assert result.attempted == len(result.pages) + len(result.failed)
    counted = Counter(result.dropped) + Counter(page.reason for page in result.failed)
    return [json.loads(page.metadata) for page in result.pages], counted


@settings(max_examples=150)
@given(st.text(max_size=200), st.sampled_from(sorted(RENDERERS)))
def test_any_text_is_drawn_or_counted(raw: str, engine: tuple[str, bool]) -> None:
    text = clean_text(raw)
    pages, dropped = rendered(text, engine)
    drawn = "".join("".join(page["text"].split()) for page in pages)
    if not dropped:
        assert drawn == "".join(text.split())
    for page in pages:
        assert 1 <= len(page["text"].split("\n")) <= 3
        assert all(line == line.strip() and line for line in page["text"].split("\n"))
        covered = covered_code_points(FACES[0]) | covered_code_points(FACES[1])
        assert all(ord(letter) in covered for letter in page["text"] if letter not in "\n\u200c\u200d")


@settings(max_examples=150)
@example("\u031d\u061b0", False)  # a mark without a letter extends beyond the page: page_does_not_fit
@given(
    st.text(alphabet=st.sampled_from(COVERED) | st.sampled_from(string.ascii_letters + " \n"), max_size=200),
    st.booleans(),
)
def test_pango_loses_no_letter_that_a_font_covers(raw: str, reflow: bool) -> None:
    if ("pango", reflow) not in RENDERERS:
        pytest.skip("Pango is not installed")
    text = clean_text(raw)
    pages, dropped = rendered(text, ("pango", reflow))
    assert set(dropped) <= {"paragraph_does_not_fit", "page_does_not_fit"}
    if not dropped:
        assert "".join("".join(page["text"].split()) for page in pages) == "".join(text.split())
