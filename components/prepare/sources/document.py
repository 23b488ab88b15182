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


def printable(name: str) -> str:
    """Return a file's or member's name as text that can be encoded; bytes that are not UTF-8 become ``\\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
