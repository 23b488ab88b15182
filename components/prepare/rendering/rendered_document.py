"""What became of one document: its pages as encoded pictures with labels, and what could not be drawn."""

from collections import Counter
from dataclasses import dataclass, field

from components.prepare.documents.drop_reasons import DropReason


@dataclass(frozen=True)
class RenderedPage:
    """One page.

    Attributes:
        order: 64 bits; sorting by it shuffles the pages of all documents reproducibly.
        rank: how many pages of its document a limit keeps before this one; 0 if the limit does not look at documents.
        letter_height: the estimated height of the letters in pixels; None for a drawn page, or if it has no letters.
    """

    order: int
    rank: int
    image: bytes
    metadata: bytes
    letter_height: float | None


@dataclass(frozen=True)
class FailedPage:
    """A page that could not be drawn.

    Attributes:
        order, rank: the page's, as if it had been drawn.
        reason: ``page_*``.
        name: the document's id and the page's number.
        problem: what is wrong, in words.
        stops: the picture is broken, and the source's ``on_unreadable`` is ``stop``.
    """

    order: int
    rank: int
    reason: DropReason
    name: str
    problem: str
    stops: bool


@dataclass
class RenderedDocument:
    """The result of drawing one document.

    Attributes:
        pages: the pages that were drawn.
        attempted: number of pages that it was split into, drawn or not.
        dropped: reason -> count of paragraphs (or 1 for the document) that could not be typeset.
        failed: pages that could not be drawn.
    """

    pages: list[RenderedPage] = field(default_factory=list)
    attempted: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    failed: list[FailedPage] = field(default_factory=list)
