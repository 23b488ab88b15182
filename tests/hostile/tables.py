"""Hostile text files, tables and archives: files of one folder that prepare reads."""

import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet as pq

from tests.hostile.hostile_input import HostileInput, fixed

_JAPANESE = "これは日本語の文章です。吾輩は猫である。名前はまだ無い。"
_GERMAN = "Größe und Straße, ein längerer Text über schöne Häuser und Bäume."
GOOD = '{"text": "a good row, number %d"}\n'


def tar_of(*members: tuple[str, bytes | str], link: bytes = tarfile.SYMTYPE, pad: bool = True) -> bytes:
    """Return a tar file; a member whose content is a string is a link to it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = link, data
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue() if pad else stream.getvalue().rstrip(b"\0")


def parquet_of(column: pyarrow.Array, **options: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pyarrow.table({"text": column}), stream, store_schema=False, **options)
    return stream.getvalue()


def long_text_repeated() -> bytes:
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(64, np.int32), ["word " * 1_600_000])
    return parquet_of(column, compression="zstd")


def equal_rows() -> bytes:
    return parquet_of(pyarrow.DictionaryArray.from_arrays(np.zeros(2_000_000, np.int32), ["a text of the row"]))


def changed_parquet(place: float, value: int) -> bytes:
    content = bytearray(parquet_of(pyarrow.array([f"row {number}" for number in range(50)])))
    content[int(place * len(content))] ^= value
    return bytes(content)


def negative_size() -> bytes:
    """Return a tar whose second header has a size of -512, in base 256."""
    content = bytearray(tar_of(("a.txt", b"one"), ("b.txt", b"two")))
    content[1024 + 124 : 1024 + 136] = (-512).to_bytes(12, "big", signed=True)
    header = bytes(content[1024:1536])
    checksum = sum(header[:148]) + sum(header[156:]) + 8 * 32
    content[1024 + 148 : 1024 + 156] = b"%06o\0 " % checksum
    return bytes(content)


def rows(*lines: str) -> str:
    return GOOD % 1 + "".join(line + "\n" for line in lines) + GOOD % 2


DEEP = "[" * 100_000
ENCODINGS = [
    HostileInput("encodings", f"{name}.txt", f"a text in {encoding}", fixed(text.encode(encoding)), expected)
    for name, encoding, text, expected in (
        ("utf16", "utf_16", _GERMAN, "dropped document_wrong_encoding"),
        ("utf16le", "utf_16_le", "plain words, two bytes each", "dropped document_wrong_encoding"),
        ("utf32", "utf_32", _GERMAN, "dropped document_wrong_encoding"),
        ("latin1", "latin_1", _GERMAN, "dropped document_wrong_encoding"),
        ("eucjp", "euc_jp", _JAPANESE, "dropped document_wrong_encoding"),
        ("sjis", "cp932", _JAPANESE, "dropped document_wrong_encoding"),
        ("iso2022", "iso2022_jp", _JAPANESE, "dropped document_wrong_encoding"),
        ("gb18030", "gb18030", "这是一个中文文本,用于测试编码。今天天气很好。", "dropped document_wrong_encoding"),
        ("bom", "utf_8_sig", _GERMAN, "kept 1"),
    )
]
TEXTS = [
    HostileInput("lost data", "nul.txt", "zero bytes", fixed(b"\0" * 500), "dropped document_wrong_encoding"),
    HostileInput("lost data", "empty.txt", "no bytes", fixed(b""), "dropped document_empty"),
    HostileInput(
        "lost data",
        "cut.txt",
        "UTF-8 cut inside a letter",
        fixed("Größe".encode()[:3]),
        "dropped document_wrong_encoding",
    ),
    HostileInput("labels", "bidi.txt", "bidirectional overrides", fixed("abc \u202egnp.exe\u202c def"), "kept 1"),
    HostileInput("labels", "ansi.md", "terminal commands", fixed("\x1b[2J\x1b]0;title\x07 text"), "kept 1"),
    HostileInput(
        "work without end", "marks.txt", "100,000 marks on one letter", fixed("a" + "\u0301\u0323" * 50_000), "kept 1"
    ),
    HostileInput("lost data", "page.docx", "a kind that is not read", fixed(b"PK\3\4"), "dropped file_kind_not_read"),
    HostileInput(
        "lost data",
        "noise.bin.txt",
        "bytes of no encoding",
        fixed(bytes(range(128, 256)) * 9),
        "dropped document_wrong_encoding",
    ),
]
LINES = [
    HostileInput(
        "lost data", "array.jsonl", "a line that is a list", fixed(rows("[1]")), "kept 2, dropped file_unreadable"
    ),
    HostileInput(
        "deep JSON", "deep.jsonl", "100,000 nested lists", fixed(rows(DEEP)), "kept 2, dropped file_unreadable"
    ),
    HostileInput(
        "deep JSON",
        "deeptext.jsonl",
        "a text of nested objects",
        fixed(rows('{"text": ' + '{"a":' * 60_000)),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "labels", "number.jsonl", "a number as text", fixed(rows('{"text": 1}')), "kept 2, dropped document_not_text"
    ),
    HostileInput(
        "labels",
        "lists.jsonl",
        "200,000 lists as text",
        fixed(rows('{"text": [' + "[]," * 200_000 + "1]}")),
        "kept 2, dropped document_not_text",
    ),
    HostileInput(
        "labels", "nan.jsonl", "NaN as text", fixed(rows('{"text": NaN}')), "kept 2, dropped document_not_text"
    ),
    HostileInput(
        "labels", "null.jsonl", "null as text", fixed(rows('{"text": null}')), "kept 2, dropped document_empty"
    ),
    HostileInput(
        "labels",
        "twice.jsonl",
        "a key twice: which value counts is unknown",
        fixed(rows('{"text": "a", "text": "b"}')),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "body.jsonl",
        "a row without the column",
        fixed(rows('{"body": "no"}')),
        "kept 2, dropped document_without_column",
    ),
    HostileInput(
        "work without end",
        "keys.jsonl",
        "a row of 50,000 other keys",
        fixed(rows(json.dumps({f"key {n}": 1 for n in range(50_000)}))),
        "kept 2, dropped document_without_column",
    ),
    HostileInput(
        "encodings", "surrogate.jsonl", "half a surrogate pair", fixed(rows('{"text": "\\ud800 alone"}')), "kept 3"
    ),
    HostileInput(
        "encodings",
        "latin.jsonl",
        "a line in Latin-1",
        fixed((GOOD % 1).encode() + b'{"text": "caf\xe9"}\n' + (GOOD % 2).encode()),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "open.jsonl",
        "a last line without its end",
        fixed(rows() + '{"text": "cut'),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "work without end",
        "digits.jsonl",
        "a number of 300,000 digits",
        fixed(rows('{"n": ' + "9" * 300_000 + "}")),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "quote.csv",
        "a quote that is never closed",
        fixed('text\none\n"two\nthree\n'),
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "wide.csv",
        "a row with too many fields",
        fixed("text,id\none,1\ntwo,2,3\nfour,4\n"),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "work without end",
        "commas.csv",
        "a row of 500,000 fields",
        fixed("text,id\none,1\n" + "," * 500_000 + "\n"),
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "labels",
        "twice.csv",
        "a header with the column twice",
        fixed("text,text\none,two\n"),
        "dropped file_unreadable",
    ),
    HostileInput("labels", "formula.csv", "spreadsheet formulas", fixed("text\n\"=cmd|' /C calc'!A0\"\n"), "kept 1"),
    HostileInput("encodings", "nul.csv", "a zero byte in a field", fixed(b"text\nb\0d\ngood\n"), "kept 2"),
    HostileInput(
        "encodings",
        "utf16.csv",
        "a table in UTF-16",
        fixed("text\none\n".encode("utf-16")),
        "dropped document_wrong_encoding",
    ),
    HostileInput(
        "lost data",
        "semicolon.csv",
        "another delimiter, a byte order mark",
        fixed("\ufeffid;text\n1;one, two\n"),
        "kept 1",
    ),
    HostileInput("lost data", "other.tsv", "no such column", fixed("body\none\n"), "dropped document_without_column"),
]
ARCHIVES = [
    HostileInput(
        "archives",
        "link.tar",
        "links out of the archive and to themselves",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", "/etc/passwd"), ("c.txt", "../../x"), ("d.txt", "d.txt")),
        "kept 1, dropped file_link_not_followed",
    ),
    HostileInput(
        "archives",
        "hard.tar",
        "a hard link out of the archive",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", "/etc/passwd"), link=tarfile.LNKTYPE),
        "kept 1, dropped file_link_not_followed",
    ),
    HostileInput(
        "archives",
        "climb.tar",
        "names that climb out: nothing is unpacked",
        lambda: tar_of(("../../a.txt", b"one"), ("/b.txt", b"two")),
        "kept 2",
    ),
    HostileInput(
        "archives",
        "cut.tar",
        "cut off inside a member",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", b"x" * 9000))[:4000],
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "archives",
        "long.tar",
        "a link to a name of 100,000 characters: its problem is cut to 500",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", "/" * 100_000)),
        "kept 1, dropped file_link_not_followed",
    ),
    HostileInput("archives", "negative.tar", "a member of negative size", negative_size, "dropped file_unreadable"),
    HostileInput(
        "archives",
        "two.tar",
        "two archives, one behind the other",
        lambda: tar_of(("a.txt", b"one")) + tar_of(("a.txt", b"two")),
        "kept 2",
    ),
    HostileInput(
        "archives",
        "garbage.tar",
        "bytes behind the end",
        lambda: tar_of(("a.txt", b"one")) + b"garbage " * 99,
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "archives",
        "twice.tar",
        "a member twice",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", b"1"), ("b.txt", b"2"), ("c.txt", b"three")),
        "kept 2, dropped file_unreadable",
    ),
    HostileInput(
        "archives",
        "device.tar",
        "a device node",
        lambda: tar_of(("a.txt", b"one"), ("b.txt", "x"), link=tarfile.CHRTYPE),
        "kept 1, dropped file_link_not_followed",
    ),
    HostileInput(
        "archives",
        "gzip.tar",
        "a compressed archive under a plain name",
        lambda: gzip.compress(bytes(900_000)),
        "dropped file_unreadable",
    ),
    HostileInput(
        "pickles",
        "pickle.tar",
        "a pickle as text",
        lambda: tar_of(("a.txt", b"cos\nsystem\n(S'touch x'\ntR."), ("b.pyd", b"x")),
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "archives",
        "many.tar",
        "900 members without a key",
        lambda: tar_of(*((f".{n}", b"") for n in range(900)), ("a.txt", b"one")),
        "kept 1, dropped file_without_key",
    ),
    HostileInput(
        "deep JSON",
        "deep.tar",
        "a member of 100,000 nested lists",
        lambda: tar_of(("a.json", DEEP.encode()), ("b.txt", b"two")),
        "kept 1, dropped file_unreadable",
    ),
    HostileInput(
        "work without end",
        "bomb.parquet",
        "8 kB that become 64 texts of 8 MB",
        long_text_repeated,
        "dropped document_too_long",
    ),
    HostileInput(
        "work without end",
        "rows.parquet",
        "two million equal rows in 8 kB",
        equal_rows,
        "dropped document_over_limits",
    ),
    HostileInput(
        "lost data",
        "cut.parquet",
        "cut off",
        lambda: parquet_of(pyarrow.array(["one"]))[:-9],
        "dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "footer.parquet",
        "a changed footer length",
        lambda: changed_parquet(0.985, 255),
        "dropped file_unreadable",
    ),
    HostileInput(
        "lost data",
        "page.parquet",
        "a changed byte in a page",
        lambda: changed_parquet(0.02, 255),
        "dropped file_unreadable",
    ),
    HostileInput(
        "labels",
        "numbers.parquet",
        "a column of numbers",
        lambda: parquet_of(pyarrow.array([1, 2])),
        "dropped document_not_text",
    ),
    HostileInput(
        "encodings",
        "binary.parquet",
        "a binary column, one value in Latin-1",
        lambda: parquet_of(pyarrow.array([b"one", b"caf\xe9"])),
        "kept 1, dropped document_wrong_encoding",
    ),
    HostileInput("lost data", "empty.parquet", "no bytes", fixed(b""), "dropped file_unreadable"),
]
INPUTS = [*ENCODINGS, *TEXTS, *LINES, *ARCHIVES]
