"""Documents that would take all time or memory are dropped by name, and everything else is read as ever."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from components.prepare.config import PrepareConfig
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.prepare.step import run
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.errors import UserError
from components.shared.foreign_files.limits import ReadingLimits
from tests.fixtures.pdf_files import pdf_claiming_pages, pdf_drawing_itself, pdf_of_nested_forms, pdf_with_text
from tests.hostile.pages import hocr_of_nested_areas

LIMITS = {"max_document_seconds": 1, "max_document_gib": 0.2}


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def prepared(source: str | Path, folder: Path, **values: Any) -> DatasetManifest:
    settings = {"eval_fraction": 0, "workers": 1, "page_width": 600, "text_engine": "pillow", **values}
    return run(PrepareConfig(source=str(source), output_dir=folder, **settings))


def repeated_text(rows: int, length: int) -> bytes:
    """Return a Parquet file of some kilobytes whose rows all hold one long text."""
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [("word " * (length // 5))])
    stream = io.BytesIO()
    pq.write_table(pyarrow.table({"text": column}), stream, compression="zstd", store_schema=False)
    return stream.getvalue()


BOUNDLESS = {
    "b.pdf": pdf_drawing_itself(),
    "c.pdf": pdf_of_nested_forms(),
    "d.pdf": pdf_claiming_pages(1_000_000),
    "e.parquet": repeated_text(1, 250_000_000),
}


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        assert len(content) < 1_000_000
        (folder / name).write_bytes(content)
    return folder


def test_boundless_documents_are_dropped_by_name_and_the_step_goes_on(tmp_path: Path) -> None:
    good = {"a.txt": b"The text before them all.", "f.pdf": pdf_with_text(b"A page"), "g.txt": b"The last text here."}
    source = folder_of(tmp_path / "in", BOUNDLESS | good)
    manifest = prepared(source, tmp_path / "out", workers=2, on_unreadable="skip", **LIMITS)
    names = ["b.pdf", "c.pdf", "d.pdf", "e.parquet:1"]
    assert manifest.dropped_names == {"document_over_limits": names}
    assert manifest.splits["train"].samples == 3


@pytest.mark.parametrize("name", ["b.pdf", "d.pdf"])
def test_a_boundless_document_stops_the_step_unless_told_otherwise(name: str, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a.txt": b"A text.", name: BOUNDLESS[name]})
    with pytest.raises(UserError) as caught:
        prepared(source, tmp_path / "out", **LIMITS)
    assert name in str(caught.value) and "set on_unreadable to skip" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_text_beside_a_scan_has_limits_too(tmp_path: Path) -> None:
    from PIL import Image

    source = folder_of(
        tmp_path / "in", {"a.txt": b"The text of a.", "b.hocr": hocr_of_nested_areas(), "c.txt": b"Of c."}
    )
    for name in "abc":
        Image.new("L", (60, 40), 255).save(source / f"{name}.png")
    manifest = prepared(f"images:{source}", tmp_path / "out", on_unreadable="skip", max_document_seconds=1)
    assert manifest.dropped_names == {"document_over_limits": ["b.png"]}


@pytest.mark.parametrize("kind", ["folder", "scans"])
def test_a_child_reads_what_this_process_reads(kind: str, tmp_path: Path) -> None:
    files = {
        "a.txt": b"one",
        "b.jsonl": b'{"text": "two"}\n{"body": 1}\n{"text": [1, [2]]}\nbad\n{"text": "three", "title": "T"}\n',
        "c.pdf": pdf_with_text(b"A page"),
        "d.docx": b"not read",
        "e.txt": "Größe".encode("latin-1"),
        "f.png": b"a picture",
        "f.xml": b"<alto><Layout><Page/></Layout></alto>",
        "g.png": b"without a text",
    }
    source = folder_of(tmp_path / "in", files)
    named = str(source) if kind == "folder" else f"images:{source}"
    for values in ({}, {"max_documents": 2}, {"title_column": "title"}):
        settings = SourceSettings(source=named, on_unreadable="skip", **values)
        here = list(read_documents(settings))
        assert list(read_documents(settings, ReadingLimits())) == here and here


def test_a_column_that_no_row_has_is_refused_through_the_child(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": str(number)}) + "\n" for number in range(3)))
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n')
    settings = SourceSettings(source=str(tmp_path), on_unreadable="skip", title_column="title")
    with pytest.raises(UserError, match=r"no column 'title' \(there are: body\)"):
        list(read_documents(settings, ReadingLimits()))


def test_nothing_is_left_of_a_reader_whose_caller_stops(tmp_path: Path) -> None:
    import psutil

    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' * 100_000)
    documents = read_documents(SourceSettings(source=str(tmp_path)), ReadingLimits())
    next(documents)
    readers = psutil.Process(os.getpid()).children(recursive=True)
    documents.close()
    assert readers, "the child was not seen"
    assert len(psutil.Process(os.getpid()).children(recursive=True)) < len(readers)
