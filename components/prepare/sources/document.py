"""One document, as every source yields it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        source_id: unique within its source, e.g. ``"guide.md"`` or ``"rows.jsonl:17"``.
        text: the raw value; anything but a string is dropped later and counted as ``document_not_text``.
        title: drawn above the text where there is one.
        lang: a BCP 47 tag, ``"und"`` where the source does not say.
    """

    source_id: str
    text: Any
    title: str | None = None
    lang: str = "und"


def printable(name: str) -> str:
    """Return a file's or member's name as text that can be encoded; bytes that are not UTF-8 become ``\\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
