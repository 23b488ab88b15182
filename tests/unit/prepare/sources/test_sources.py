"""Every kind of source read through the prepare step, and the errors for broken ones."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest

from components.prepare.config import PrepareConfig
from components.prepare.documents.document import Document
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.prepare.step import run
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.programs.step_command import step_main

WORDS = [f"Document {number} tells of the {animal}." for number, animal in enumerate(["fox", "owl", "eel", "ant"])]


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepared_texts(source: str | Path, folder: Path, **settings: Any) -> set[str]:
    """Return the labels of all pages; the documents are short enough for one page each."""
    values = {"page_width": 900, "lines_per_page": (6, 6), "workers": 1, **settings}
    run(PrepareConfig(output_dir=folder, source=str(source), **values))
    return {page.text for split in ("train", "eval") for page in pages(folder, split)}


def pages(folder: Path, split: Any) -> Iterator[Any]:
    dataset = ShardDataset(folder, split)
    return (dataset[index] for index in range(len(dataset)))


def sources_of_all_kinds(folder: Path) -> dict[str, str]:
    """Write the four documents in every format and return the ``source`` of each format."""
    texts = folder / "texts"
    (texts / "below").mkdir(parents=True)
    for number, text in enumerate(WORDS):
        name = f"below/{number}.md" if number % 2 else f"{number}.txt"
        (texts / name).write_text(text)
    (texts / "picture.png").write_bytes(b"not read")
    rows = [{"text": text, "id": number} for number, text in enumerate(WORDS)]
    write_rows(folder / "rows.jsonl", rows)
    pq.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    write_tar(folder / "all.tar", [(f"{row['id']}.json", json.dumps(row).encode()) for row in rows])
    for number in range(2):
        half = list(enumerate(WORDS))[2 * number : 2 * number + 2]
        write_tar(folder / f"part-{number}.tar", [(f"{index}.txt", text.encode()) for index, text in half])
    return {
        "folder": str(texts),
        "jsonl": str(folder / "rows.jsonl"),
        "parquet": str(folder / "rows.parquet"),
        "webdataset": str(folder / "all.tar"),
        "pattern": str(folder / "part-{0..1}.tar"),
    }


@pytest.mark.parametrize("kind", ["folder", "jsonl", "parquet", "webdataset", "pattern"])
def test_each_kind_of_source_gives_the_same_documents(kind: str, tmp_path: Path) -> None:
    source = sources_of_all_kinds(tmp_path)[kind]
    assert prepared_texts(source, tmp_path / "dataset") == set(WORDS)


def test_the_python_docs_need_nothing_but_python(tmp_path: Path) -> None:
    manifest = run(PrepareConfig(output_dir=tmp_path / "dataset", max_documents=6, max_train_pages=20, workers=1))
    assert manifest.splits["train"].samples == 20 and manifest.splits["eval"].samples > 0
    assert sum(manifest.documents.values()) == 6
    page = ShardDataset(tmp_path / "dataset", "train")[0]
    assert page.metadata["lang"] == "en" and page.text


def test_a_title_stands_above_the_text_in_a_paragraph_of_its_own(tmp_path: Path) -> None:
    rows = [{"body": text, "name": f"Chapter {number}", "text": "no"} for number, text in enumerate(WORDS)]
    source = write_rows(tmp_path / "rows.jsonl", [*rows, {"body": "Without a title.", "name": None}])
    found = prepared_texts(source, tmp_path / "dataset", text_column="body", title_column="name")
    assert found == {f"Chapter {number}\n{text}" for number, text in enumerate(WORDS)} | {"Without a title."}


def table_of_all_columns(kind: str, folder: Path) -> Path:
    rows = [
        {"body": "A text.", "name": "A title", "summary": "Short.", "language": "fr", "unused": "x"},
        {"body": None, "name": None, "summary": None, "language": None, "unused": None},
    ]
    if kind == "parquet":
        pq.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
        return folder / "rows.parquet"
    if kind == "tar":
        return write_tar(folder / "rows.tar", [(f"{i}.json", json.dumps(row).encode()) for i, row in enumerate(rows)])
    return write_rows(folder / "rows.jsonl", rows)


COLUMNS = {"text_column": "body", "title_column": "name", "target_column": "summary", "lang_column": "language"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tar"])
def test_a_row_gives_text_title_summary_and_language(kind: str, tmp_path: Path) -> None:
    source = table_of_all_columns(kind, tmp_path)
    first, second = read_documents(SourceSettings(source=str(source), lang="en", **COLUMNS))
    number = (0, 1) if kind == "tar" else (1, 2)
    assert first == Document(f"{source.name}:{number[0]}", "A text.", "A title", "fr", "Short.")
    assert second == Document(f"{source.name}:{number[1]}", "", None, "en", None)


@pytest.mark.parametrize("option", COLUMNS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tar"])
def test_every_named_column_has_to_be_there(kind: str, option: str, tmp_path: Path) -> None:
    columns = COLUMNS | {option: "nowhere"}
    for on_unreadable in ("stop", "skip"):  # a wrong option, not a broken file
        settings = SourceSettings(
            source=str(table_of_all_columns(kind, tmp_path)), on_unreadable=on_unreadable, **columns
        )
        with pytest.raises(UserError, match=f"'nowhere' .*language.*{option}"):
            list(read_documents(settings))


def test_ids_name_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_rows(tmp_path / "in" / "b.jsonl", [{"text": "first row"}, {"text": "second row"}])
    (tmp_path / "in" / "a.txt").write_text("a text")
    write_tar(tmp_path / "in" / "c.tar", [("k.txt", b"in a shard")])
    read = read_documents(PrepareConfig(output_dir=tmp_path / "out", source=str(tmp_path / "in")))
    assert [document.source_id for document in read] == ["a.txt", "b.jsonl:1", "b.jsonl:2", "c.tar:k"]


def test_names_with_odd_characters_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "in {1,2}"
    folder.mkdir()
    write_tar(folder / "a:b.tar", [("k.txt", WORDS[0].encode()), ("caf\udce9.txt", WORDS[1].encode())])
    (folder / os.fsdecode(b"latin-\xe9.txt")).write_text(WORDS[2])
    (folder / "brace{3}.tar").write_bytes((folder / "a:b.tar").read_bytes())
    assert prepared_texts(folder, tmp_path / "dataset") == set(WORDS[:3])


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, text in enumerate(WORDS[:2]):
        (tmp_path / "in" / f"{number}.txt").write_text(text, encoding="utf-8-sig")
    assert prepared_texts(tmp_path / "in", tmp_path / "dataset") == set(WORDS[:2])


def test_the_digest_follows_the_source(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in WORDS])
    values = {"source": str(source), "workers": 1}
    first = run(PrepareConfig(output_dir=tmp_path / "1", **values))
    write_rows(source, [{"text": text, "unused": 1} for text in WORDS])
    second = run(PrepareConfig(output_dir=tmp_path / "2", **values))
    assert first.source_digest != second.source_digest and first.digest != second.digest


def broken_tar(path: Path, change: Any) -> Path:
    write_tar(path, [(f"{number}.txt", (text * 50).encode()) for number, text in enumerate(WORDS)])
    path.write_bytes(change(path.read_bytes()))
    return path


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def make_bad_source(kind: str, folder: Path) -> tuple[str, list[str]]:
    """Write a broken source; return it and what the error message must name."""
    if kind == "missing":
        return str(folder / "nowhere"), ["nowhere", "no such file or folder"]
    if kind == "hub name without prefix":
        return "owner/name", ["hf:owner/name"]
    if kind == "empty folder":
        (folder / "empty").mkdir()
        return str(folder / "empty"), ["empty", ".parquet"]
    if kind == "other kind of file":
        (folder / "a.docx").write_bytes(b"PK")
        return str(folder / "a.docx"), ["a.docx", ".jsonl"]
    if kind == "empty jsonl":
        (folder / "none.jsonl").write_text("\n\n")
        return str(folder / "none.jsonl"), ["none.jsonl", "empty"]
    if kind == "column not in jsonl":
        return str(write_rows(folder / "r.jsonl", [{"body": "x", "title": "y"}])), [
            "'text'",
            "body, title",
            "text_column",
        ]
    if kind == "column not in parquet":
        pq.write_table(pyarrow.table({"content": ["x"], "id": [1]}), folder / "r.parquet")
        return str(folder / "r.parquet"), ["'text'", "content, id", "r.parquet"]
    if kind == "column not in tar":
        return str(write_tar(folder / "r.tar", [("k.json", b'{"body": "x"}')])), ["'text'", "body", "k.json"]
    if kind == "malformed line":
        (folder / "m.jsonl").write_text('{"text": "good"}\n{"text": "bad\n')
        return str(folder / "m.jsonl"), ["m.jsonl, line 2", "not valid JSON"]
    if kind == "line that is no object":
        (folder / "l.jsonl").write_text('{"text": "good"}\n\n[1]\n')
        return str(folder / "l.jsonl"), ["l.jsonl, line 3"]
    if kind == "nested too deep":
        (folder / "deep.jsonl").write_text("[" * 100_000)
        return str(folder / "deep.jsonl"), ["deep.jsonl, line 1"]
    if kind == "member that is no object":
        return str(write_tar(folder / "n.tar", [("k.json", b"5")])), ["n.tar, k.json"]
    if kind == "sample without text":
        return str(write_tar(folder / "p.tar", [("k.png", b"x")])), ["p.tar, k", ".txt nor a .json"]
    if kind == "pattern without file":
        return str(folder / "no-{0..1}.tar"), ["no-0.tar", "pattern"]
    if kind == "no tar":
        (folder / "g.tar").write_bytes(b"garbage" * 200)
        return str(folder / "g.tar"), ["g.tar", "corrupt"]
    if kind == "tar cut inside of a member":
        return str(broken_tar(folder / "c.tar", lambda content: content[:2500])), ["c.tar", "corrupt"]
    if kind == "tar cut between two members":  # each member is a header and three blocks of text
        return str(broken_tar(folder / "b.tar", lambda content: content[: 4 * 512])), [
            "b.tar",
            "corrupt",
            "end of archive",
        ]
    if kind == "tar with a broken header":
        return str(broken_tar(folder / "h.tar", lambda content: flipped(content, 4 * 512 + 148))), ["h.tar", "corrupt"]
    if kind == "truncated parquet":
        pq.write_table(pyarrow.table({"text": WORDS}), folder / "t.parquet")
        (folder / "t.parquet").write_bytes((folder / "t.parquet").read_bytes()[:-20])
        return str(folder / "t.parquet"), ["t.parquet", "not a readable Parquet file"]
    assert kind == "damaged parquet"
    pq.write_table(pyarrow.table({"text": ["x" * 5000 + text for text in WORDS]}), folder / "d.parquet")
    content = (folder / "d.parquet").read_bytes()
    (folder / "d.parquet").write_bytes(b"PAR1" + b"\xff" * 60 + content[64:])
    return str(folder / "d.parquet"), ["d.parquet"]


BAD_SOURCES = [
    "missing",
    "hub name without prefix",
    "empty folder",
    "other kind of file",
    "empty jsonl",
    "column not in jsonl",
    "column not in parquet",
    "column not in tar",
    "malformed line",
    "line that is no object",
    "nested too deep",
    "member that is no object",
    "sample without text",
    "pattern without file",
    "no tar",
    "tar cut inside of a member",
    "tar cut between two members",
    "tar with a broken header",
    "truncated parquet",
    "damaged parquet",
]


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, named = make_bad_source(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    arguments = ["--source", source, "--output_dir", str(tmp_path / "out"), "--workers", "1"]
    assert step_main("prepare", PrepareConfig, run, arguments) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(line + "\n") and "Traceback" not in said
    for part in named:
        assert part in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_hub_source_without_a_network_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "components.prepare", "--source", "hf:owner/name", "--output_dir", "out"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("error: hf:owner/name: ") and "network" in last
    assert list(tmp_path.iterdir()) == []
