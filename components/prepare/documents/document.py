"""The document that every source yields, and the marker for an input that gives none."""

from dataclasses import dataclass, field
from typing import Any, Literal

from components.prepare.documents.drop_reasons import DropReason

_MOST_CHARACTERS, _LAST_CHARACTERS = 500, 100
"""Of a marker's name and problem; longer ones are cut before the last hundred."""


@dataclass(frozen=True)
class PagePicture:
    """A page that already exists as a picture: a page of a PDF, or a scan.

    Attributes:
        path: the PDF or image file, absolute.
        page_index: page number in a PDF, from 0; None for an image file.
        text: the text on the page, in reading order; lines are separated by ``\\n``.
        on_unreadable: what happens if the picture turns out to be broken when it is loaded.
    """

    path: str
    page_index: int | None
    text: str
    on_unreadable: Literal["stop", "skip"] = field(default="skip", compare=False)


@dataclass(frozen=True)
class Document:
    """A named text, or pages that already exist as pictures.

    Attributes:
        source_id: unique within its source, e.g. ``"guide.md"`` or ``"rows.jsonl:17"``.
        text: the raw value; anything but a string is dropped later and counted as ``document_not_text``. A document
            of page pictures has the texts of its pages, joined by blank lines.
        title: drawn above the text, if there is one.
        lang: a BCP 47 tag; ``"und"`` if the source names none.
        target: task ``summarize``: the summary; None if the row has none.
        pictures: the pages, if they are taken as they are instead of being drawn.
    """

    source_id: str
    text: Any
    title: str | None = None
    lang: str = "und"
    target: str | None = None
    pictures: tuple[PagePicture, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A file, row, member or page that gives no document; the selection counts it and logs its name.

    Attributes:
        source_id: named like a document's, e.g. ``"below/report.pdf"`` or ``"rows.jsonl:17"``; cut to 500 characters.
        problem: what is wrong, in words; cut to 500 characters.
        reason: the reason that it is counted under; ``output.drop_reasons`` explains each.
        count: how many are counted, e.g. of words.
        kind: for ``file_kind_not_read``: the suffix, e.g. ``".docx"``.
    """

    source_id: str
    problem: str
    reason: DropReason = "file_unreadable"
    kind: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("source_id", "problem", "kind"):  # a name in an archive can have a million characters
            object.__setattr__(self, name, _cut(getattr(self, name)))


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[: _MOST_CHARACTERS - _LAST_CHARACTERS - 1]}…{text[-_LAST_CHARACTERS:]}"


def printable(name: str) -> str:
    """Return the name of a file or member as text that can be encoded; bytes that are not UTF-8 become ``\\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
