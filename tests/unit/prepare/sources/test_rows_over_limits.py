"""A row of a table that goes beyond the limits is dropped by name; the rows around it are read, each once, in order."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.prepare.config import PrepareConfig
from components.prepare.documents.document import Document, Unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.prepare.sources.tables import delimited_passing, parquet
from components.prepare.sources.tables.delimited_passing import RowPasser
from components.prepare.step import run
from components.shared.errors import UserError
from components.shared.foreign_files.limits import ReadingLimits
from components.shared.programs.step_command import step_main

HUGE = 56 * 2**20
"""Bytes of a line or member, most of them a hole in the file. Reading it takes two copies, more than 0.1 GiB."""
ROWS = 9
LEAST = ReadingLimits(memory_bytes=107_000_000)

Killers = set[int]


def text(number: int) -> str:
    return f"The text of row {number}."


def write_jsonl(path: Path, killers: Killers) -> None:
    with path.open("wb") as stream:
        for number in range(1, ROWS + 1):
            if number in killers:
                stream.write(b"x" * 70_000)  # the head of a file shows its encoding
                stream.seek(HUGE, io.SEEK_CUR)
            stream.write(json.dumps({"text": text(number)}).encode() + b"\n")


def write_csv(path: Path, killers: Killers) -> None:
    """The fields have quotes, delimiters and line breaks; the huge ones too."""
    with path.open("wb") as stream:
        stream.write(b"text,other\n")
        for number in range(1, ROWS + 1):
            stream.write(f'"{text(number)}","say ""a,b""\r\n'.encode())
            if number in killers:
                stream.write(b"x" * 70_000)  # the head of a file shows its encoding
                stream.seek(HUGE, io.SEEK_CUR)
            stream.write(b'"",\n"\r\n' if number % 2 else b'"\n')


def write_tar(path: Path, killers: Killers, rows: int = ROWS) -> None:
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(1, rows + 1):
            member = tarfile.TarInfo(f"{number}.txt")
            if number in killers:
                member.size = HUGE
                archive.addfile(member)
                stream.seek(HUGE, io.SEEK_CUR)
                archive.offset += HUGE
            else:
                member.size = len(text(number))
                archive.addfile(member, io.BytesIO(text(number).encode()))


def write_parquet(path: Path, killers: Killers) -> None:
    """A killer's title is a list of a million structs: some kilobytes in the file, 200 MB of Python's dicts."""
    structs = pyarrow.struct([("a", pyarrow.bool_())])
    schema = pyarrow.schema([("text", pyarrow.string()), ("title", pyarrow.list_(structs))])
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        for numbers in (range(1, 5), range(5, 9), range(9, ROWS + 1)):
            ends = list(accumulate((1_000_000 if number in killers else 0 for number in numbers), initial=0))
            values = pyarrow.StructArray.from_arrays([pyarrow.repeat(True, ends[-1])], fields=list(structs))
            titles = pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), values)
            writer.write_table(pyarrow.table([[text(number) for number in numbers], titles], schema))


def write_saved(path: Path, killers: Killers) -> None:
    """A killer's title is a list of six million lists: 528 MB of Python's objects."""
    ends = list(accumulate((6_000_000 if number in killers else 0 for number in range(1, ROWS + 1)), initial=0))
    inner = pyarrow.array(np.arange(ends[-1] + 1, dtype=np.int32))
    lists = pyarrow.ListArray.from_arrays(inner, pyarrow.repeat(True, ends[-1]))
    titles = pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), lists)
    texts = [text(number) for number in range(1, ROWS + 1)]
    datasets.Dataset(pyarrow.table({"text": texts, "title": titles})).save_to_disk(str(path))


WRITERS: dict[str, Callable[[Path, Killers], None]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "tar": write_tar,
    "parquet": write_parquet,
    "saved": write_saved,
}
TITLED = {"title_column": "title"}
SETTINGS: dict[str, dict[str, Any]] = {"parquet": TITLED, "saved": TITLED | {"max_document_gib": 0.35}}


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def config(kind: str, folder: Path, killers: Killers, **values: Any) -> PrepareConfig:
    source = folder / f"rows.{kind}"
    WRITERS[kind](source, killers)
    settings: dict[str, Any] = {
        "eval_fraction": 0,
        "workers": 1,
        "page_width": 400,
        "text_engine": "pillow",
        "near_duplicate_threshold": 1,
        "max_document_gib": 0.1,
        "on_unreadable": "skip",
        **SETTINGS.get(kind, {}),
        **values,
    }
    return PrepareConfig(source=str(source), output_dir=folder / "out", **settings)


def drawn(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return the document and the picture of each page, by its key, in the order of the shards."""
    found: dict[str, bytes] = {}
    for shard in sorted((folder / "out").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name] = stream.read()
    keys = [name.removesuffix(".json") for name in found if name.endswith(".json")]
    return {key: (json.loads(found[f"{key}.json"])["source_id"], found[f"{key}.png"]) for key in keys}


def check_around(kind: str, killers: Killers, tmp_path: Path) -> None:
    pages = {}
    for name, numbers in (("with", killers), ("without", set[int]())):
        (tmp_path / name).mkdir()
        manifest = run(config(kind, tmp_path / name, numbers))
        dropped = {"document_over_limits": [f"rows.{kind}:{number}" for number in sorted(numbers)]}
        assert manifest.dropped_names == (dropped if numbers else {})
        assert manifest.dropped == ({"document_over_limits": len(numbers)} if numbers else {})
        pages[name] = list(drawn(tmp_path / name).values())
    assert len(pages["without"]) == ROWS
    lost = {f"rows.{kind}:{number}" for number in killers}
    assert pages["with"] == [(source_id, picture) for source_id, picture in pages["without"] if source_id not in lost]


def test_the_rows_around_killers_give_the_same_pages_in_the_same_order(tmp_path: Path) -> None:
    check_around("tar", {1, 5, 6, ROWS}, tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_the_rows_around_killers_give_the_same_documents(kind: str, tmp_path: Path) -> None:
    killers = {1, 6, ROWS}
    WRITERS[kind](tmp_path / f"rows.{kind}", killers)
    settings = SourceSettings(source=str(tmp_path / f"rows.{kind}"), on_unreadable="skip", **SETTINGS.get(kind, {}))
    items = list(read_documents(settings, LEAST))
    assert [item.source_id for item in items] == [f"rows.{kind}:{number}" for number in range(1, ROWS + 1)]
    for number, item in enumerate(items, start=1):
        said = item.reason if isinstance(item, Unreadable) else item.text
        assert said == ("document_over_limits" if number in killers else text(number))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tar", "parquet", "saved"])
@pytest.mark.parametrize("killers", [{1}, {ROWS}, {2, 5, 6}])
def test_wherever_the_killers_are(kind: str, killers: Killers, tmp_path: Path) -> None:
    check_around(kind, killers, tmp_path)


def test_behind_ten_killers_the_rest_of_a_table_is_lost_by_name(tmp_path: Path) -> None:
    """The next file is read."""
    write_tar(tmp_path / "rows.tar", set(range(2, 13)), rows=13)
    (tmp_path / "s.txt").write_text("A text behind the table.")
    items = list(read_documents(SourceSettings(source=str(tmp_path), on_unreadable="skip"), LEAST))
    dropped = [f"rows.tar:{number}" for number in range(2, 12)]
    assert [item.source_id for item in items] == ["rows.tar:1", *dropped, "rows.tar", "s.txt"]
    assert [item.source_id for item in items if isinstance(item, Document)] == ["rows.tar:1", "s.txt"]
    lost = items[-2]
    assert isinstance(lost, Unreadable) and lost.reason == "document_over_limits"
    assert lost.problem.endswith("(behind the first 11 documents), as 10 rows before: the rest is not read")


def test_a_row_that_cannot_be_passed_takes_its_row_group_along(tmp_path: Path) -> None:
    """Its text is the dictionary of the group, which each row of it needs."""
    path, schema = tmp_path / "rows.parquet", pyarrow.schema([("text", pyarrow.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for numbers in ((1, 2, 3), (4, 5, 6, 7), (8, 9)):
            texts = [text(number) if number != 5 else "a" * 150_000_000 for number in numbers]
            writer.write_table(pyarrow.table([texts], schema))
    settings = SourceSettings(source=str(path), on_unreadable="skip")
    items = list(read_documents(settings, LEAST))
    assert [item.text for item in items if isinstance(item, Document)] == [text(number) for number in (1, 2, 3, 8, 9)]
    (lost,) = (item for item in items if isinstance(item, Unreadable))
    assert (lost.source_id, lost.reason, lost.count) == ("rows.parquet:4", "document_over_limits", 4)
    assert "no way past it to the rows up to 7" in lost.problem


def test_rows_that_are_too_much_only_together_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(80, np.int32), ["word " * 600_000])
    pq.write_table(pyarrow.table({"text": column}), path, compression="zstd", store_schema=False)
    settings = SourceSettings(source=str(path), on_unreadable="skip")
    items = list(read_documents(settings, LEAST))
    assert [item.source_id for item in items] == [f"rows.parquet:{number}" for number in range(1, 81)]
    assert all(isinstance(item, Document) and len(item.text) == 3_000_000 for item in items)


def test_the_error_of_a_stopped_step_names_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", {4})
    arguments = ["--source", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--max_document_gib", "0.1", "--workers", "1", "--text_engine", "pillow"]
    assert step_main("prepare", PrepareConfig, run, arguments) == 2
    said = capsys.readouterr().err
    assert "rows.jsonl, line 4: reading it takes more than 0.1 GiB of memory" in said and "on_unreadable" in said
    assert not (tmp_path / "out").exists()


def test_described_scans_behind_a_killing_row_are_read(tmp_path: Path) -> None:
    for number in range(1, ROWS + 1):
        Image.new("L", (60, 40), 255).save(tmp_path / f"{number}.png")
    with (tmp_path / "metadata.jsonl").open("wb") as stream:
        for number in range(1, ROWS + 1):
            if number == 3:
                stream.write(b"x" * 70_000)
                stream.seek(HUGE, io.SEEK_CUR)
            row = {"file_name": f"{number}.png", "text": text(number)}
            stream.write(json.dumps(row).encode() + b"\n\n")
    settings = SourceSettings(source=f"images:{tmp_path}", on_unreadable="skip")
    items = list(read_documents(settings, LEAST))
    found = [(item.source_id, item.reason if isinstance(item, Unreadable) else item.text) for item in items]
    described = [(f"{number}.png", text(number)) for number in range(1, ROWS + 1)]
    described[2] = ("metadata.jsonl:5", "document_over_limits")
    assert found == [*described, ("3.png", "document_without_text")]


@given(st.text(alphabet='a,"\n\r', max_size=40), st.integers(0, 6), st.integers(2, 5))
def test_rows_are_passed_as_csv_reads_them(content: str, count: int, piece: int) -> None:
    expected = io.StringIO(content, newline="")
    rows = csv.reader(iter(expected.readline, ""), strict=True)
    try:
        for _, _ in zip(range(count), rows, strict=False):
            pass
    except csv.Error:
        return  # nothing is read behind it
    stream = io.StringIO(content, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited_passing, "_PIECE", piece)
        RowPasser(stream, ",").pass_rows(count)
    assert stream.read() == expected.read()


def test_a_file_of_equal_rows_does_not_become_any_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is small enough, and all together would be read for hours; one process reads them, without limits."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pyarrow.table({"text": ["A line of text. " * 625] * 1000}), path, compression="zstd")
    settings = SourceSettings(source=str(path), on_unreadable="skip")
    whole = list(read_documents(settings))
    assert len(whole) == 1000 and path.stat().st_size < 20_000, "10 MB are nothing"
    monkeypatch.setattr(parquet, "_MOST_DECODED_BYTES", 2**20)
    *kept, marker = read_documents(settings)
    assert kept == whole[: len(kept)] and len(kept) == 64, "a batch"
    assert isinstance(marker, Unreadable) and marker.reason == "document_over_limits"
    assert marker.source_id == "rows.parquet:65" and len(kept) + marker.count == 1000
    with pytest.raises(UserError, match=r"rows\.parquet.*1000 times its bytes; leave it out"):
        list(read_documents(SourceSettings(source=str(path))))
    monkeypatch.setattr(parquet, "_MOST_EXPANSION", 10**7)
    assert list(read_documents(settings)) == whole, "a large file may become large"
