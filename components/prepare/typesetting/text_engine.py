"""The interface of a text engine: break a paragraph into lines of a given width, and draw lines at given positions.

There are two engines. Pango shapes every script, breaks lines by language and takes missing glyphs from other
fonts; it needs system libraries. Pillow needs only pip and draws what one font covers.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from components.prepare.documents.drop_reasons import TypesettingProblem


@dataclass(frozen=True)
class TextStyle:
    """How the lines of a page are typeset.

    Attributes:
        faces: indices of the configured fonts, the preferred font first.
        font_size: pixels per em.
        lang: BCP 47 tag; it selects language-specific glyph forms and line break rules.
    """

    faces: tuple[int, ...]
    font_size: int
    lang: str


@dataclass(frozen=True)
class Line:
    """One line of a paragraph without a position.

    Attributes:
        start, end: its range of characters in the paragraph, including trailing white space.
        text: its text without leading and trailing white space.
        width: pixels, without trailing white space.
        ascent, descent: pixels that the line's fonts need above and below the baseline.
        handle: private to the engine.
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
    """A line with the position of its left end on the baseline, in pixels from the page's top left corner."""

    line: Line
    x: float
    baseline: float


class CannotBeSetError(Exception):
    """This engine cannot draw a text correctly; ``reason`` says why."""

    def __init__(self, reason: TypesettingProblem) -> None:
        super().__init__(reason)
        self.reason = reason


class TextEngine(Protocol):
    """Lays out and draws text; create one object per process."""

    name: str
    """engine, its version and the versions of its libraries; the same name draws the same pixels"""

    def lay_out(self, text: str, style: TextStyle, width: int, right_to_left: bool) -> list[Line]:
        """Break a paragraph (without line breaks) into lines.

        Raises:
            CannotBeSetError: ``glyph_missing``, ``needs_shaping`` or ``does_not_fit``.
        """
        ...

    def used_faces(self, lines: Sequence[PlacedLine], style: TextStyle) -> list[int]:
        """Return the style's fonts that the lines are drawn with, sorted by falling number of letters."""
        ...

    def draw(self, lines: Sequence[PlacedLine], style: TextStyle, width: int, height: int) -> np.ndarray:
        """Return the lines' coverage, (height, width) uint8: 0 nothing, 255 full ink; ink outside is clipped."""
        ...


def is_right_to_left(paragraph: str) -> bool:
    """Return whether the paragraph's base direction, that of its first strong character, is right to left (UAX #9)."""
    for letter in paragraph:
        direction = unicodedata.bidirectional(letter)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False
