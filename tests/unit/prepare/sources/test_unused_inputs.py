"""Nothing in a source is lost silently: each item is read, or the manifest has its name and the reason."""

import json
import logging
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.prepare.config import PrepareConfig
from components.prepare.documents.document import Document, Unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents, source_digest
from components.prepare.step import run
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.errors import UserError
from components.shared.programs.step_command import step_main
from tests.fixtures.pdf_files import pdf_with_text
from tests.hostile.tables import tar_of


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def read(source: str | Path, **values: object) -> list[Document | Unreadable]:
    return list(read_documents(SourceSettings(source=str(source), **values)))


def found(items: list[Document | Unreadable]) -> tuple[dict[str, object], dict[str, str]]:
    """Return id -> text of the documents, and id -> reason of the markers."""
    documents = {item.source_id: item.text for item in items if isinstance(item, Document)}
    markers: dict[str, str] = {item.source_id: item.reason for item in items if isinstance(item, Unreadable)}
    assert len(documents) + len(markers) == len(items)
    return documents, markers


def prepared(source: str | Path, folder: Path, **values: Any) -> DatasetManifest:
    settings = {"eval_fraction": 0, "workers": 1, "page_width": 600, **values}
    return run(PrepareConfig(source=str(source), output_dir=folder, **settings))


@pytest.mark.parametrize("kept_end", [1024, 10240])
def test_concatenated_tars_are_read_to_the_end(kept_end: int, tmp_path: Path) -> None:
    first = tar_of(("a.txt", b"one"), ("b.txt", b"two"))
    first = first.rstrip(b"\0") + bytes(-len(first.rstrip(b"\0")) % 512 + kept_end)
    (tmp_path / "s.tar").write_bytes(first + tar_of(("b.txt", b"three"), ("c.json", b'{"text": "four"}')) + first)
    documents, markers = found(read(tmp_path / "s.tar"))
    assert documents == {
        **{"s.tar:a": "one", "s.tar:b": "two", "s.tar:2:b": "three", "s.tar:2:c": "four"},
        **{"s.tar:3:a": "one", "s.tar:3:b": "two"},
    }
    assert not markers


def test_garbage_behind_a_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(tar_of(("a.txt", b"one")) + b"garbage " * 100)
    with pytest.raises(UserError, match=r"s\.tar: a corrupt shard"):
        read(tmp_path / "s.tar")
    documents, markers = found(read(tmp_path / "s.tar", on_unreadable="skip"))
    assert documents == {"s.tar:a": "one"} and markers == {"s.tar": "file_unreadable"}


@pytest.mark.parametrize("link", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_followed_inside_of_it_and_counted_otherwise(link: bytes, tmp_path: Path) -> None:
    target = "a.txt" if link == tarfile.SYMTYPE else "d/a.txt"
    members: list[tuple[str, bytes | str]] = [
        ("d/a.txt", b"one"),
        ("d/b.txt", target),
        ("d/c.txt", "../../etc/passwd"),
        ("d/e.txt", "/etc/passwd"),
    ]
    (tmp_path / "s.tar").write_bytes(tar_of(*members, ("d/f.txt", "f.txt"), link=link))
    documents, markers = found(read(tmp_path / "s.tar"))
    assert documents == {"s.tar:d/a": "one", "s.tar:d/b": "one"}
    assert markers == dict.fromkeys(["s.tar:d/c", "s.tar:d/e", "s.tar:d/f"], "file_link_not_followed")


def test_linked_folders_are_followed_inside_of_the_source_and_counted_otherwise(tmp_path: Path) -> None:
    source, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (source / "a", source / "z", outside):
        folder.mkdir(parents=True)
    (source / "a" / "1.txt").write_text("one")
    (outside / "2.txt").write_text("two")
    (source / "z" / "again").symlink_to(source / "a")
    (source / "z" / "up").symlink_to("..")
    (source / "z" / "out").symlink_to(outside)
    (source / "z" / "nowhere.txt").symlink_to("nothing")
    (source / "z" / "3.txt").symlink_to(outside / "2.txt")
    documents, markers = found(read(source))
    assert documents == {"a/1.txt": "one", "z/3.txt": "two", "z/again/1.txt": "one"}
    assert markers == dict.fromkeys(["z/nowhere.txt", "z/out", "z/up"], "file_link_not_followed")


TEXTS = {
    "utf_16": "Größe und Straße, ein längerer Text über schöne Häuser.",
    "cp1252": "Größe und Straße, ein längerer Text über schöne Häuser.",
    "euc_jp": "これは日本語の文章です。吾輩は猫である。名前はまだ無い。",
    "cp932": "これは日本語の文章です。吾輩は猫である。名前はまだ無い。",
    "iso2022_jp": "これは日本語の文章です。吾輩は猫である。名前はまだ無い。",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_text_in_another_encoding_is_named_with_the_likely_one_and_read_when_told(
    encoding: str, tmp_path: Path
) -> None:
    text = TEXTS[encoding]
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (tmp_path / "b.tar").write_bytes(tar_of(("k.txt", text.encode(encoding))))
    (tmp_path / "c.csv").write_bytes(f'id,text\n1,"{text}"\n'.encode(encoding))
    (tmp_path / "d.jsonl").write_bytes((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode(encoding))
    items = read(tmp_path, on_unreadable="skip")
    assert not any(isinstance(item, Document) for item in items)
    named = {item.source_id: item.problem for item in items if isinstance(item, Unreadable)}
    for name in ("a.txt", "b.tar:k"):
        assert f"probably {encoding}: check it and set encoding to {encoding}" in named[name]
    documents, markers = found(read(tmp_path, encoding=encoding))
    assert documents == dict.fromkeys(["a.txt", "b.tar:k", "c.csv:1", "d.jsonl:1"], text) and not markers


def test_an_encoding_that_python_does_not_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for encoding in ("utf-9", "base64"):
        arguments = ["--source", "x", "--encoding", encoding, "--output_dir", str(tmp_path / "o")]
        assert step_main("prepare", PrepareConfig, run, arguments) == 2
        assert "not a text encoding" in capsys.readouterr().err


def test_binary_columns_of_parquet_are_decoded(tmp_path: Path) -> None:
    values = pyarrow.array(["Größe".encode(), b"gr\xf6\xdfe", b"plain"], pyarrow.binary())
    pq.write_table(pyarrow.table({"text": values}), tmp_path / "t.parquet")
    documents, markers = found(read(tmp_path / "t.parquet"))
    assert documents == {"t.parquet:1": "Größe", "t.parquet:3": "plain"}
    assert markers == {"t.parquet:2": "document_wrong_encoding"}


@pytest.mark.parametrize("kind", ["jsonl", "tar"])
def test_a_first_row_without_the_column_stops_or_is_counted(kind: str, tmp_path: Path) -> None:
    rows = [b'{"body": "no"}', b'{"text": "one"}', b'{"body": "no"}', b'{"text": "two"}']
    source = tmp_path / f"r.{kind}"
    source.write_bytes(
        b"\n".join(rows) if kind == "jsonl" else tar_of(*((f"{n}.json", row) for n, row in enumerate(rows, 1)))
    )
    with pytest.raises(UserError, match=r"no column 'text' \(there are: body\)"):
        read(source)
    documents, markers = found(read(source, on_unreadable="skip"))
    assert documents == {f"r.{kind}:2": "one", f"r.{kind}:4": "two"}
    assert markers == dict.fromkeys([f"r.{kind}:1", f"r.{kind}:3"], "document_without_column")


def test_csv_and_tsv_are_read_by_their_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text,lang\n1,"two\nlines, one ""quote""",en\n2,plain,de\n')
    (tmp_path / "b.csv").write_text("\ufeffid;text\n1;semicolons, here\n", encoding="utf-8")
    (tmp_path / "c.tsv").write_text("text\tid\ntabs, here\t1\n")
    (tmp_path / "d.csv").write_bytes(b"id,text\n1,caf\xe9\n2,fine\n3,one,too many\n4\n5,last\n")
    items = read(tmp_path, on_unreadable="skip", lang_column="lang")
    documents, markers = found(items)
    assert documents == {
        **{"a.csv:1": 'two\nlines, one "quote"', "a.csv:2": "plain", "b.csv:1": "semicolons, here"},
        **{"c.tsv:1": "tabs, here", "d.csv:2": "fine", "d.csv:5": "last"},
    }
    assert markers == {
        **{"d.csv:1": "document_wrong_encoding", "d.csv:3": "file_unreadable", "d.csv:4": "document_without_column"}
    }
    assert [item.lang for item in items if isinstance(item, Document)][:2] == ["en", "de"]


def test_a_quote_that_is_never_closed_costs_the_rest_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\none\n"two\nthree\n')
    with pytest.raises(UserError, match=r"a\.csv: the rows from 2 on"):
        read(tmp_path)
    documents, markers = found(read(tmp_path, on_unreadable="skip"))
    assert documents == {"a.csv:1": "one"} and markers == {"a.csv:2": "file_unreadable"}


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 40), 255).save(path, format="PNG")


def test_texts_beside_pictures_are_found_in_any_case_and_for_binarized_lines(tmp_path: Path) -> None:
    for name in ("A.PNG", "b.png", "B.png", "l.bin.png", "m.nrm.png", "n.v2.png"):
        picture(tmp_path / name)
    texts = {"A.TXT": "a", "b.txt": "b", "l.gt.txt": "l", "m.GT.TXT": "m", "n.txt": "not of v2"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    documents, markers = found(read(f"images:{tmp_path}"))
    assert documents == {"A.PNG": "a", "b.png": "b", "l.bin.png": "l", "m.nrm.png": "m"}
    without = dict.fromkeys(["B.png", "n.v2.png"], "document_without_text")
    assert markers == without | {"n.txt": "file_without_picture"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_imagefolder_is_read_by_its_metadata(kind: str, tmp_path: Path) -> None:
    rows = [{"file_name": name, "text": f"text of {name}"} for name in ("train/1.png", "2.png", "../out.png", "3.png")]
    for name in ("in/train/1.png", "in/2.png", "in/4.png", "out.png"):
        picture(tmp_path / name)
    folder = tmp_path / "in"
    (folder / "4.txt").write_text("beside")
    if kind == "csv":
        lines = ["file_name,text", *(f"{row['file_name']},{row['text']}" for row in rows)]
        (folder / "metadata.csv").write_text("\n".join(lines))
    elif kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")
    items = read(f"images:{folder}", on_unreadable="skip")
    documents, markers = found(items)
    assert documents == {"train/1.png": "text of train/1.png", "2.png": "text of 2.png", "4.png": "beside"}
    broken = dict.fromkeys([f"metadata.{kind}:3", f"metadata.{kind}:4"], "file_unreadable")
    assert markers == broken
    assert all(item.pictures for item in items if isinstance(item, Document))
    with pytest.raises(UserError, match=r"out\.png is not in the folder"):
        read(f"images:{folder}")
    before = source_digest(SourceSettings(source=f"images:{folder}"))
    picture(folder / "5.png")
    assert source_digest(SourceSettings(source=f"images:{folder}")) != before


def test_folders_that_save_to_disk_wrote_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"body": ["one", "two"], "id": [1, 2]})
    rows.save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "splits")
    assert found(read(tmp_path / "single", text_column="body"))[0] == {"single:1": "one", "single:2": "two"}
    test_split = read(tmp_path / "splits", text_column="body", source_split="test")
    assert found(test_split)[0] == {"splits:1": "two"}
    with pytest.raises(UserError, match=r"no split 'dev' \(there are: train, test\)"):
        read(tmp_path / "splits", text_column="body", source_split="dev")
    with pytest.raises(UserError, match="no column 'text'"):
        read(tmp_path / "single")
    assert source_digest(SourceSettings(source=str(tmp_path / "single")))
    for path in (tmp_path / "single").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="single"):
        read(tmp_path / "single", text_column="body")


def test_kinds_that_are_not_read_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "in"
    (source / ".git").mkdir(parents=True)
    (source / ".git" / "config.txt").write_text("hidden")
    for name in ("a.docx", "b.DOCX", "c.html", "README", ".hidden.txt", "~$a.docx", ".~lock.a.docx#", "Thumbs.db"):
        (source / name).write_text("x")
    for number in range(12):
        (source / f"{number:02}.epub").write_text("x")
    (source / "text.txt").write_text("A text that is read.")
    with caplog.at_level(logging.WARNING):
        manifest = prepared(source, tmp_path / "out")
    assert manifest.unread_kinds == {".docx": 2, ".epub": 12, ".html": 1, "no suffix": 1}
    assert manifest.dropped == {"file_hidden": 5, "file_kind_not_read": 16}
    assert manifest.dropped_names == {
        "file_hidden": [".git", ".hidden.txt", ".~lock.a.docx#", "Thumbs.db", "~$a.docx"],
        "file_kind_not_read": [f"{number:02}.epub" for number in range(10)],
    }
    assert "2 .docx, 12 .epub, 1 .html, 1 no suffix" in caplog.text and caplog.text.count("epub") == 1
    (source / "text.txt").unlink()
    with pytest.raises(UserError, match=r"no file that can be read .*; it holds 12 \.epub, 2 \.docx") as caught:
        prepared(source, tmp_path / "none")
    assert "images:" not in str(caught.value)


def test_scans_in_a_folder_that_is_read_as_texts_are_told_with_the_way_to_read_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "my scans"
    source.mkdir()
    Image.new("L", (40, 20), 255).save(source / "1.PNG")
    way = f"to read the pictures, with the texts beside them as labels, write images:{source}"
    with pytest.raises(UserError, match=re.escape(f"it holds 1 .png; {way}")):
        prepared(source, tmp_path / "none")
    (source / "1.txt").write_text("A label that is drawn as a text.")
    with caplog.at_level(logging.WARNING):
        prepared(source, tmp_path / "out")
    assert f"files of kinds that are not read: 1 .png; {way}" in caplog.text


def test_every_reason_has_names_in_the_manifest(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_text("The first text, which is kept.")
    (source / "b.txt").write_text("The first text, which is kept.")
    (source / "c.txt").write_text(" \n")
    (source / "d.txt").write_bytes("Größe".encode("latin-1"))
    (source / "e.txt").write_text("\U00012000\U00012001")
    (source / "r.jsonl").write_text("".join(f'{{"text": {n}}}\n' for n in range(12)))
    manifest = prepared(source, tmp_path / "out", text_engine="pillow", max_uncovered_share=1)
    assert manifest.dropped_names == {
        "document_duplicate": ["b.txt"],
        "document_empty": ["c.txt"],
        "document_not_text": [f"r.jsonl:{number}" for number in range(1, 11)],
        "document_wrong_encoding": ["d.txt"],
        "paragraph_glyph_missing": ["e.txt"],
    }
    assert manifest.dropped["document_not_text"] == 12
    assert set(manifest.dropped) == set(manifest.dropped_names)


def scans(folder: Path, broken: int, whole: int) -> Path:
    for number in range(broken + whole):
        picture(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"The text of scan {number}.")
        if number < broken:
            (folder / f"{number}.png").write_bytes((folder / f"{number}.png").read_bytes()[:40])
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_is_found_broken_while_drawing_keeps_its_name(workers: int, tmp_path: Path) -> None:
    source = f"images:{scans(tmp_path / 'in', broken=2, whole=2)}"
    with pytest.raises(UserError, match=r"^0\.png: .*0\.png: .*set on_unreadable to skip"):
        prepared(source, tmp_path / "stopped", workers=workers)
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(UserError, match=r"\.png: .*set on_unreadable to skip"):
        prepared(source, tmp_path / "stopped", workers=workers, max_train_pages=4)
    manifest = prepared(source, tmp_path / "out", workers=workers, on_unreadable="skip")
    assert manifest.dropped == {"page_picture_unreadable": 2}
    assert manifest.dropped_names == {"page_picture_unreadable": ["0.png", "1.png"]}


def test_where_all_pictures_are_broken_no_fonts_are_advised(tmp_path: Path) -> None:
    source = f"images:{scans(tmp_path / 'in', broken=2, whole=0)}"
    with pytest.raises(UserError) as caught:
        prepared(source, tmp_path / "out", on_unreadable="skip")
    assert "0.png, 1.png" in str(caught.value) and "replace the broken pictures" in str(caught.value)
    assert "font" not in str(caught.value)


def test_a_page_of_a_pdf_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(pdf_with_text(b"Hello"))
    (tmp_path / "in" / "b.txt").write_text("A text.")
    manifest = prepared(tmp_path / "in", tmp_path / "out", max_picture_pixels=100)
    assert manifest.dropped_names == {"page_picture_too_large": ["a.pdf#page=1"]}
    shutil.rmtree(tmp_path / "out")
