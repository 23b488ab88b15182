"""One document, as every source yields it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PagePicture:
    """A page that exists as a picture already: a page of a PDF, or a scan.

    Attributes:
        path: the PDF or image file, absolute.
        page_index: the page of a PDF, from 0; None for an image file.
        text: what stands on the page, in reading order; lines end with ``\\n``.
    """

    path: str
    page_index: int | None
    text: str


@dataclass(frozen=True)
class Document:
    """A text with a name, or pages that exist as pictures.

    Attributes:
        source_id: unique within its source, e.g. ``"guide.md"`` or ``"rows.jsonl:17"``.
        text: the raw value; anything but a string is dropped later and counted as ``document_not_text``. For a
            document of page pictures the pages' texts, joined by blank lines.
        title: drawn above the text where there is one.
        lang: a BCP 47 tag, ``"und"`` where the source does not say.
        target: task ``summarize``: the summary; None where the row has none.
        pictures: the pages, where they are not drawn but taken as they are.
    """

    source_id: str
    text: Any
    title: str | None = None
    lang: str = "und"
    target: str | None = None
    pictures: tuple[PagePicture, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A file, row, member or page that gives no document: whoever selects documents counts it, and logs its name.

    Attributes:
        source_id: where it stands, as a document's, e.g. ``"below/report.pdf"`` or ``"rows.jsonl:17"``.
        problem: what is wrong, in words.
        reason: what it is counted as: ``file_unreadable``, ``document_too_long`` (larger than any document may be, so
            it was not read), ``document_without_text`` (a scan without a text beside it) or ``page_text_unmapped``
            (a PDF's page whose fonts do not say which letters they draw).
    """

    source_id: str
    problem: str
    reason: str = "file_unreadable"


def printable(name: str) -> str:
    """Return a file's or member's name as text that can be encoded; bytes that are not UTF-8 become ``\\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
