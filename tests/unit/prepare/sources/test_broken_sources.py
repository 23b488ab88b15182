"""Broken, huge and unsupported files: readable parts are read, the rest stops the step or is counted and named."""

import io
import json
import os
import tarfile
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prepare.documents.document import Document, Unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES
from components.shared.errors import UserError
from tests.fixtures.pdf_files import pdf_with_text


def read(source: str | Path, **values: object) -> list[Document | Unreadable]:
    return list(read_documents(SourceSettings(source=str(source), **values)))


def texts(items: list[Document | Unreadable]) -> list[object]:
    return [item.text for item in items if isinstance(item, Document)]


def markers(items: list[Document | Unreadable]) -> list[tuple[str, str]]:
    return [(item.source_id, item.reason) for item in items if isinstance(item, Unreadable)]


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def parquet_of(column: pyarrow.Array, **options: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pyarrow.table({"text": column}), stream, **options)
    return stream.getvalue()


def tar_of_pairs() -> bytes:
    """Four samples, each a text and its details; every member has a header and one block."""
    return tar_of([(f"{n}.{kind}", f"{kind} {n}".encode()) for n in range(4) for kind in ("txt", "info")])


def damaged_pages() -> bytes:
    """Three row groups; in the second one a value was changed, which its page's checksum reveals."""
    rows = [f"row number {number}" for number in range(15)]
    content = parquet_of(rows, row_group_size=5, compression="none", use_dictionary=False, write_page_checksum=True)
    return content.replace(b"row number 7", b"row number X", 1)


def other_row_count(promised: int) -> bytes:
    """A row group of 50 rows whose footer states another number of rows (Thrift encodes n as 2n)."""
    content = bytearray(parquet_of([f"row {number}" for number in range(50)], store_schema=False))
    content[content.rfind(2 * 50)] = 2 * promised
    return bytes(content)


def not_utf8() -> bytes:
    column = pyarrow.array([b"good", b"caf\xe9", b"fine"], pyarrow.binary()).view(pyarrow.string())
    return parquet_of(column)


BROKEN: dict[str, tuple[str, bytes, list[object], list[tuple[str, str]]]] = {
    "jsonl, a line that is no object": (
        "b.jsonl",
        b'{"text": "one"}\n[1]\n{"text": "bad\n"null"\n{"text": "two"}\n',
        ["one", "two"],
        [(f"b.jsonl:{line}", "file_unreadable") for line in (2, 3, 4)],
    ),
    "jsonl, a line that is not UTF-8": (
        "b.jsonl",
        b'{"text": "one"}\n{"text": "caf\xe9"}\n',
        ["one"],
        [("b.jsonl:2", "file_unreadable")],
    ),
    "parquet, cut off": ("b.parquet", parquet_of(["one"])[:-9], [], [("b.parquet", "file_unreadable")]),
    "parquet, a damaged page": (
        "b.parquet",
        damaged_pages(),
        [f"row number {number}" for number in (0, 1, 2, 3, 4, 10, 11, 12, 13, 14)],
        [("b.parquet:6", "file_unreadable")],
    ),
    "parquet, fewer rows than promised": (
        "b.parquet",
        other_row_count(51),
        [f"row {number}" for number in range(50)],
        [("b.parquet:51", "file_unreadable"), ("b.parquet", "file_unreadable")],
    ),
    "parquet, more rows than promised": (
        "b.parquet",
        other_row_count(49),
        [f"row {number}" for number in range(49)],
        [("b.parquet", "file_unreadable")],
    ),
    "tar, cut off in a member": (
        "b.tar",
        tar_of_pairs()[: 5 * 1024 + 600],
        ["txt 0", "txt 1"],
        [("b.tar", "file_unreadable")],
    ),
    "tar, half a sample": ("b.tar", tar_of_pairs()[: 5 * 1024], ["txt 0", "txt 1"], [("b.tar", "file_unreadable")]),
    "tar, a sample without text": (
        "b.tar",
        tar_of([("1.txt", b"one"), ("2.png", b"x"), ("3.json", b"[]"), ("4.txt", b"four")]),
        ["one", "four"],
        [("b.tar:2", "file_unreadable"), ("b.tar:3", "file_unreadable")],
    ),
    "tar, a member twice": (
        "b.tar",
        tar_of([("1.txt", b"one"), ("2.txt", b"two"), ("2.txt", b"2"), ("3.txt", b"three")]),
        ["one", "three"],
        [("b.tar:2", "file_unreadable")],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_loses_nothing_of_the_rest(kind: str, tmp_path: Path) -> None:
    name, content, kept, left_out = BROKEN[kind]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.txt").write_text("before")
    (tmp_path / "z.txt").write_text("behind")
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert name in str(caught.value) and "on_unreadable to skip" in str(caught.value)
    items = read(tmp_path, on_unreadable="skip")
    assert texts(items) == ["before", *kept, "behind"]
    assert markers(items) == left_out
    assert all(item.problem for item in items if isinstance(item, Unreadable))


def test_max_documents_does_not_count_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n[]\n{"text": "two"}\n{"text": "three"}\n')
    items = read(tmp_path, max_documents=2, on_unreadable="skip")
    assert texts(items) == ["one", "two"] and markers(items) == [("rows.jsonl:2", "file_unreadable")]


def test_strings_that_are_not_utf8_lose_their_own_row_only(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(not_utf8())
    (tmp_path / "b.tar").write_bytes(tar_of([("1.txt", b"good"), ("2.txt", b"caf\xe9")]))
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    items = read(tmp_path)
    assert texts(items) == ["good", "fine", "good"]
    wrong = dict.fromkeys(["a.parquet:2", "b.tar:2", "c.txt"], "document_wrong_encoding")
    assert dict(markers(items)) == wrong
    assert all("not UTF-8, probably cp1252" in item.problem for item in items if isinstance(item, Unreadable))
    assert texts(read(tmp_path, encoding="latin-1"))[-3:] == ["good", "café", "café"]


def test_odd_characters_are_left_to_the_cleaning(tmp_path: Path) -> None:
    odd = "a\x00b\u200bc\ue000d\ufffee\x7f"
    (tmp_path / "a.txt").write_text(odd, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": odd + "\ud800"}))
    assert texts(read(tmp_path)) == [odd, odd + "\ud800"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "tar", "pdf"])
def test_a_broken_file_with_an_odd_name_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"f\xe4lder")
    folder.mkdir()
    (folder / os.fsdecode(b"na\xefve." + suffix.encode())).write_bytes(b"garbage")
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).encode("utf-8")  # it can be printed
    assert r"f\udce4lder" in str(caught.value) and r"na\udcefve" in str(caught.value)
    assert markers(read(tmp_path, on_unreadable="skip"))[0][0].startswith(r"f\udce4lder/na\udcefve.")


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def write_huge_tar(path: Path) -> None:
    small, huge = tarfile.TarInfo("1.txt"), tarfile.TarInfo("2.txt")
    small.size, huge.size = 3, MAX_DOCUMENT_BYTES + 512
    path.write_bytes(small.tobuf() + b"one".ljust(512, b"\0") + huge.tobuf())
    sparse(path, 3 * 512 + huge.size + 1024)


def write_huge_line(path: Path) -> None:
    path.write_bytes(b'{"text": "one"}\n')
    sparse(path, MAX_DOCUMENT_BYTES + 100)
    with path.open("ab") as stream:
        stream.write(b'\n{"text": "two"}\n')


@pytest.mark.parametrize(
    ("name", "write", "source_id", "kept"),
    [
        ("a.txt", lambda path: sparse(path, MAX_DOCUMENT_BYTES + 1), "a.txt", []),
        ("a.jsonl", write_huge_line, "a.jsonl:2", ["one", "two"]),
        ("a.tar", write_huge_tar, "a.tar:2", ["one"]),
    ],
)
def test_a_text_beyond_all_limits_is_counted_and_not_kept(
    name: str, write: Callable[[Path], None], source_id: str, kept: list[str], tmp_path: Path
) -> None:
    write(tmp_path / name)
    items = read(tmp_path)
    assert texts(items) == kept and markers(items) == [(source_id, "document_too_long")]


def peak_bytes(source: Path) -> int:
    tracemalloc.start()
    deque(read_documents(SourceSettings(source=str(source))), maxlen=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_large_text_is_copied_once(tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_bytes(b"fifty million letters" * 2_500_000)
    assert peak_bytes(tmp_path / "large.txt") < 2.1 * 52_500_000  # its bytes, and the decoded string


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a row of a long table"}\n' * 20_000)
    assert peak_bytes(tmp_path / "rows.jsonl") < 1_000_000
    member = tarfile.TarInfo("000.txt")
    member.size = 9
    with (tmp_path / "many.tar").open("wb") as stream:
        for number in range(3_000):
            member.name = f"{number}.txt"
            stream.write(member.tobuf() + b"some text".ljust(512, b"\0"))
        stream.write(bytes(1024))
    assert peak_bytes(tmp_path / "many.tar") < 300_000  # keeping the headers would take 1.3 MB
    (tmp_path / "one_group.parquet").write_bytes(
        parquet_of([f"{number} {'text ' * 800}" for number in range(5_000)], use_dictionary=False, compression="none")
    )
    before, highest = pyarrow.total_allocated_bytes(), 0
    for _ in read_documents(SourceSettings(source=str(tmp_path / "one_group.parquet"))):
        highest = max(highest, pyarrow.total_allocated_bytes())
    assert highest - before < 8_000_000  # the row group has 20 MB


SUFFIXES = ["txt", "md", "jsonl", "parquet", "tar", "pdf"]
WHOLE = {
    "jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "parquet": parquet_of(["one", "two", "two"] * 20),
    "tar": tar_of([("1.json", b'{"text": "one"}'), ("é" * 80 + ".txt", b"two" * 300)])[:-7000],
    "pdf": pdf_with_text(b"Hello"),
}


@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=600))
@settings(max_examples=200)
def test_foreign_bytes_as_any_file_are_read_or_refused(suffix: str, content: bytes) -> None:
    _read_or_refused(suffix, content)


@given(content=st.text(alphabet='{}[]":,\\utextn01 \n', max_size=120).map(str.encode))
@settings(max_examples=100)
def test_foreign_lines_are_read_or_refused(content: bytes) -> None:
    _read_or_refused("jsonl", content)


@given(
    suffix=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0.2, 1),
)
@settings(max_examples=300)
def test_damaged_files_are_read_or_refused(suffix: str, changes: list[tuple[float, int]], cut: float) -> None:
    content = bytearray(WHOLE[suffix])
    for place, value in changes:
        content[int(place * len(content))] = value
    _read_or_refused(suffix, bytes(content[: int(cut * len(content))]))


def _read_or_refused(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"foreign.{suffix}"
        path.write_bytes(content)
        refused = False
        try:
            whole = read(path)
        except UserError as error:
            refused = True
            assert f"foreign.{suffix}" in str(error)
        try:
            items = read(path, on_unreadable="skip")
        except UserError as error:
            assert "no column" in str(error)  # a damaged column name
        else:
            assert refused or items == whole
            assert not refused or markers(items)
            assert all(item.source_id.startswith(f"foreign.{suffix}") for item in items)
