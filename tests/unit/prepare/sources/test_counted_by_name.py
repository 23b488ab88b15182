"""Members, rows and files that give no document are counted by name: none is lost without a word."""

import io
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from components.prepare.documents.document import Document
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.shared.errors import UserError

Member = tuple[str, bytes]


def found(source: str | Path, **values: object) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts of the documents, and the reasons of the markers, by id."""
    texts, reasons = {}, {}
    for item in read_documents(SourceSettings(source=str(source), **{"on_unreadable": "skip", **values})):
        if isinstance(item, Document):
            texts[item.source_id] = item.text
        else:
            assert item.problem
            reasons[item.source_id] = item.reason
    return texts, reasons


def shard(path: Path, *members: Member, kind: bytes = tarfile.REGTYPE, of_kind: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if name == of_kind:
                info.type = kind
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_members_of_no_sample_are_counted_by_name(tmp_path: Path) -> None:
    members = [("README", b"x"), ("a.txt", b"one"), (".txt", b"x"), ("a.json", b'{"text": "first"}')]
    members += [("b.txt", b"two"), ("dir/.cfg.txt", b"x"), ("LICENSE", b"x")]
    texts, reasons = found(shard(tmp_path / "s.tar", *members))
    assert texts == {"s.tar:a": "first", "s.tar:b": "two"}
    assert reasons == {f"s.tar:{name}": "file_without_key" for name in ("README", ".txt", "dir/.cfg.txt", "LICENSE")}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_pipes_and_devices_in_a_shard_are_counted_by_name(kind: bytes, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", ("a.txt", b"one"), ("p.txt", b""), ("b.txt", b"two"), kind=kind, of_kind="p.txt")
    texts, reasons = found(path)
    assert texts == {"s.tar:a": "one", "s.tar:b": "two"} and reasons == {"s.tar:p.txt": "file_link_not_followed"}


def test_folders_in_a_shard_are_no_loss(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", ("in", b""), ("in/a.txt", b"one"), kind=tarfile.DIRTYPE, of_kind="in")
    assert found(path) == ({"s.tar:in/a": "one"}, {})


def test_a_repeated_member_costs_its_sample_alone(tmp_path: Path) -> None:
    members = [("a.txt", b"one"), ("c.txt", b"1"), ("c.txt", b"2"), ("c.json", b"{}"), ("d.txt", b"three")]
    path = shard(tmp_path / "s.tar", *members)
    assert found(path) == ({"s.tar:a": "one", "s.tar:d": "three"}, {"s.tar:c": "file_unreadable"})
    with pytest.raises(UserError, match=r"c\.txt"):
        found(path, on_unreadable="stop")


def test_more_unused_members_than_are_kept_in_memory_come_all(tmp_path: Path) -> None:
    names = [f"member{number}" for number in range(2500)]
    texts, reasons = found(shard(tmp_path / "s.tar", ("a.txt", b"one"), *((name, b"") for name in names)))
    assert texts == {"s.tar:a": "one"} and list(reasons) == [f"s.tar:{name}" for name in names]


def test_a_row_with_a_key_twice_is_counted_by_name(tmp_path: Path) -> None:
    rows = [
        '{"text": "one", "text": "two"}',
        '{"text": "x", "meta": {"a": 1, "a": 2}}',
        '{"meta": {"a": 1}, "text": "y"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert found(tmp_path / "a.jsonl") == ({"a.jsonl:2": "x", "a.jsonl:3": "y"}, {"a.jsonl:1": "file_unreadable"})
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: the key 'text' twice"):
        found(tmp_path / "a.jsonl", on_unreadable="stop")
    path = shard(tmp_path / "s.tar", ("a.json", rows[0].encode()), ("b.json", rows[2].encode()))
    assert found(path) == ({"s.tar:b": "y"}, {"s.tar:a": "file_unreadable"})


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_with_the_column_twice_is_counted_by_name(kind: str, tmp_path: Path) -> None:
    def write(name: str, columns: list[str]) -> Path:
        path = tmp_path / f"{name}.{kind}"
        values = ["one", "two", "three"]
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table([[value] for value in values], names=columns), path)
        else:
            comma = "," if kind == "csv" else "\t"
            path.write_text(f"{comma.join(columns)}\n{comma.join(values)}\n")
        return path

    twice = write("a", ["text", "text", "id"])
    assert found(twice) == ({}, {f"a.{kind}": "file_unreadable"})
    with pytest.raises(UserError, match=rf"a\.{kind}: the column 'text' twice"):
        found(twice, on_unreadable="stop")
    assert found(write("b", ["text", "id", "id"])) == ({f"b.{kind}:1": "one"}, {})


def test_a_list_of_scans_with_file_names_twice_is_counted_by_name(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "s.png")
    (tmp_path / "metadata.csv").write_text("file_name,file_name,text\ns.png,t.png,one\n")
    texts, reasons = found(f"images:{tmp_path}")
    assert not texts and reasons["metadata.csv"] == "file_unreadable"


def test_hidden_and_lock_files_are_counted_by_name(tmp_path: Path) -> None:
    hidden = [".hidden.txt", "~$a.docx", ".~lock.a.odt#", "Thumbs.db", "desktop.ini", "._a.txt"]
    for name in (*hidden, "a.txt"):
        (tmp_path / name).write_text("text")
    for folder in (".git", "__MACOSX"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "inside.txt").write_text("text")
    texts, reasons = found(tmp_path)
    assert texts == {"a.txt": "text"} and reasons == dict.fromkeys([*hidden, ".git", "__MACOSX"], "file_hidden")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="no file that can be read"):
        found(tmp_path)
