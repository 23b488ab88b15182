"""Stores selected documents as JSON lines in files of 10,000, written and read as streams."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from itertools import chain, islice
from pathlib import Path
from typing import Any

from components.prepare.documents.document import PagePicture
from components.prepare.selection.selected_document import SelectedDocument
from components.shared.errors import UserError

DOCUMENTS_PER_FILE = 10_000

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MEND = "run the selection again"


def documents_file(folder: Path, number: int) -> Path:
    """Return the path of the file that holds document ``number``."""
    return folder / f"documents-{number // DOCUMENTS_PER_FILE:06d}.jsonl"


def document_line(
    source_id: str,
    text: str,
    original_text: str | None,
    lang: str,
    target: str | None,
    pictures: tuple[PagePicture, ...],
) -> bytes:
    """Return a document as it is stored before its number and split are known: a JSON object and a line break.

    Lone surrogates, which sources may leave in ids and original texts, are kept in UTF-8's bit pattern.
    """
    record: dict[str, Any] = {
        "source_id": source_id,
        "text": text,
        "original_text": original_text,
        "lang": lang,
        "target": target,
        "pictures": [astuple(picture) for picture in pictures],
    }
    return (_encode(record) + "\n").encode("utf-8", "surrogatepass")


def read_record(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line.

    Raises:
        ValueError: the line is not a complete JSON object.
    """
    return json.loads(line.decode("utf-8", "surrogatepass"))


def numbered(number: int, split: str, line: bytes) -> bytes:
    """Return ``line`` with the number and split of the document added."""
    return b'{"number":%d,"split":"%s",' % (number, split.encode()) + line[1:]


def write_lines(folder: Path, lines: Iterable[tuple[int, bytes]]) -> int:
    """Write (number, line) pairs, numbered from 0 without gaps, into ``folder``; return their count.

    Raises:
        FileExistsError: the folder already holds documents.
        ValueError: a number does not match the position of its line.
    """
    remaining = iter(lines)
    count = 0
    while first := next(remaining, None):
        with documents_file(folder, count).open("xb") as file:
            for number, line in chain([first], islice(remaining, DOCUMENTS_PER_FILE - 1)):
                if number != count:
                    raise ValueError(f"document {number} is at position {count}")
                file.write(line)
                count += 1
    return count


def read_documents(folder: Path, start: int = 0, stop: int | None = None) -> Iterator[SelectedDocument]:
    """Yield the documents from ``start`` up to ``stop`` (exclusive; None: all); only the files needed are opened.

    Raises:
        UserError: a document is missing, or its line is damaged.
    """
    stop = _stored(folder) if stop is None else stop
    while start < stop:
        end = min(stop, start - start % DOCUMENTS_PER_FILE + DOCUMENTS_PER_FILE)
        path = documents_file(folder, start)
        try:
            with path.open("rb") as file:
                for line in islice(file, start % DOCUMENTS_PER_FILE, start % DOCUMENTS_PER_FILE + end - start):
                    yield _document(line, start, path)
                    start += 1
        except FileNotFoundError as error:
            raise UserError(f"the selected document {start} is missing", where=str(path), mend=_MEND) from error
        if start < end:
            raise UserError(f"the selected document {start} is missing", where=str(path), mend=_MEND)


def _stored(folder: Path) -> int:
    """Return the number of documents in the folder, judging by its last file."""
    files = sorted(folder.glob("documents-*.jsonl"))
    if not files:
        return 0
    with files[-1].open("rb") as file:
        return int(files[-1].stem.removeprefix("documents-")) * DOCUMENTS_PER_FILE + sum(1 for _ in file)


def _document(line: bytes, number: int, path: Path) -> SelectedDocument:
    try:
        record = read_record(line)
        if record["number"] != number:
            raise ValueError(f"its number is {record['number']}")
        pictures = tuple(PagePicture(*picture) for picture in record.pop("pictures"))
        return SelectedDocument(**record, pictures=pictures)
    except (ValueError, TypeError, KeyError) as error:
        where = f"{path}:{number % DOCUMENTS_PER_FILE + 1}"
        raise UserError("the line is not a selected document", where=where, mend=_MEND) from error
