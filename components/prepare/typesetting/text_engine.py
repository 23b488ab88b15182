"""What a text engine does: break one paragraph into lines of a width, and draw lines at places.

Two engines stand behind this interface. Pango shapes every script, finds line breaks by language and takes a
glyph from another font where the first one lacks it; it needs libraries of the system. Pillow comes with pip
alone and draws what one font covers.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class TextStyle:
    """How the lines of a page are set.

    Attributes:
        faces: indices of the configured fonts, the preferred one first.
        font_size: pixels per em.
        lang: BCP 47 tag; it chooses between the forms that languages share a code point for, and where lines may end.
    """

    faces: tuple[int, ...]
    font_size: int
    lang: str


@dataclass(frozen=True)
class Line:
    """One line of a paragraph, not yet placed.

    Attributes:
        start, end: which characters of the paragraph it holds, the white space at its end included.
        text: what stands on it, without white space at both ends.
        width: pixels, without the white space at its end.
        ascent, descent: pixels that the line's fonts ask for above and below the baseline.
        handle: the engine's own.
    """

    start: int
    end: int
    text: str
    width: float
    ascent: float
    descent: float
    handle: Any


@dataclass(frozen=True)
class PlacedLine:
    """A line with the place of its left end on the baseline, in pixels from the page's left upper corner."""

    line: Line
    x: float
    baseline: float


class CannotBeSetError(Exception):
    """This engine cannot draw a text correctly; ``reason`` is the name that the drop is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TextEngine(Protocol):
    """Sets and draws text; one object per process."""

    name: str
    """engine, version and the versions of what it draws with; the same name draws the same pixels"""

    def lay_out(self, text: str, style: TextStyle, width: int, right_to_left: bool) -> list[Line]:
        """Break a paragraph (no line ends in it) into lines.

        Raises:
            CannotBeSetError: ``glyph_missing``, ``needs_shaping`` or ``does_not_fit``.
        """
        ...

    def used_faces(self, lines: Sequence[PlacedLine], style: TextStyle) -> list[int]:
        """Return which of the style's fonts the lines are drawn with, the one that draws most letters first."""
        ...

    def draw(self, lines: Sequence[PlacedLine], style: TextStyle, width: int, height: int) -> np.ndarray:
        """Return the lines' coverage, (height, width) uint8: 0 nothing, 255 full ink; what lies outside is cut."""
        ...


def is_right_to_left(paragraph: str) -> bool:
    """Return whether the paragraph's base direction is right to left: its first strong character's (UAX #9, P2, P3)."""
    for letter in paragraph:
        direction = unicodedata.bidirectional(letter)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False
