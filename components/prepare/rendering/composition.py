"""Composes one page: places lines in columns until the page is full."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from components.prepare.documents.drop_reasons import TypesettingProblem
from components.prepare.rendering.page_look import PageLook
from components.prepare.rendering.paragraphs import FlowLine, Paragraph, flow
from components.prepare.typesetting.text_engine import CannotBeSetError, PlacedLine, TextEngine, TextStyle

_GUTTER = 1.5
"""Space between two columns, as a multiple of the font size."""
_BELOW_INSTRUCTION = 0.75
"""Space between the instruction and the text, as a multiple of the font size."""
_NARROW_LETTER = 0.2
"""Lower bound of the mean advance of any text, as a multiple of the font size."""
_LINES_OF_AN_OPEN_PAGE = 50


@dataclass
class ComposedPage:
    """A page's lines with their positions.

    Attributes:
        style: the style of its lines.
        width, height: pixels.
        placed: all lines, those of the instruction first.
        text_lines: the lines of the document's text, in reading order.
        end_reason: why the page ends before a paragraph that cannot be drawn; None if it is full or holds all text.
    """

    style: TextStyle
    width: int
    height: int
    placed: list[PlacedLine] = field(default_factory=list)
    text_lines: list[FlowLine] = field(default_factory=list)
    end_reason: TypesettingProblem | None = None

    @property
    def drawn_text(self) -> str:
        """Everything that is drawn, line by line."""
        return "\n".join(placed.line.text for placed in self.placed)


class _Columns:
    """Places lines down one column, then in the next one."""

    def __init__(self, look: PageLook, font_size: int, right_to_left: bool) -> None:
        gutter = round(_GUTTER * font_size) if look.columns > 1 else 0
        inner = look.width - 2 * look.margin
        self.width = (inner - (look.columns - 1) * gutter) // look.columns
        lefts = [look.margin + number * (self.width + gutter) for number in range(look.columns)]
        self._lefts = lefts[::-1] if right_to_left else lefts
        self._top = look.margin
        self._bottom = math.inf if look.height is None else look.height - look.margin
        self._spacing = look.line_spacing * font_size
        self._column = 0
        self._baseline: float | None = None
        self._descent = self._gap = 0.0
        self.lowest = float(self._top)
        """y coordinate below everything that was placed"""

    def place(self, line: FlowLine) -> PlacedLine | None:
        """Return the line with its position; None if the page is full."""
        ascent, descent = line.line.ascent, line.line.descent
        while self._column < len(self._lefts):
            if self._baseline is None:
                baseline = self._top + math.ceil(ascent)
            else:
                baseline = math.ceil(self._baseline + self._gap + max(self._spacing, self._descent + ascent))
            if baseline + descent <= self._bottom:
                break
            if self._baseline is None:
                return None
            self._column, self._baseline = self._column + 1, None
        else:
            return None
        self._baseline, self._descent, self._gap = baseline, descent, 0.0
        self.lowest = max(self.lowest, baseline + descent)
        left = self._lefts[self._column]
        x = left + self.width - line.line.width if line.right_to_left else left
        return PlacedLine(line.line, float(round(x)), float(baseline))

    def capacity(self, font_size: int, max_lines: int | None) -> int:
        """Return the most letters that the page can hold."""
        lines = _LINES_OF_AN_OPEN_PAGE
        if math.isfinite(self._bottom):
            lines = math.ceil((self._bottom - self._top) / self._spacing) * len(self._lefts)
        return math.ceil(min(lines, max_lines or lines) * self.width / (_NARROW_LETTER * font_size))

    def skip(self, pixels: float) -> None:
        """Add this much space above the next line of this column."""
        self._gap = pixels


def compose(
    paragraphs: list[Paragraph],
    first: int,
    instruction: list[Paragraph],
    look: PageLook,
    engine: TextEngine,
    lang: str,
    page_size_multiple: int,
    font_size: int | None = None,
) -> ComposedPage:
    """Fill one page with as much of ``paragraphs`` as it holds, starting at number ``first``, below ``instruction``.

    The page ends before a paragraph that the engine cannot draw.

    Args:
        font_size: replaces the look's font size.

    Raises:
        CannotBeSetError: the engine cannot draw the instruction or the first paragraph, or none of its lines fits.
    """
    style = TextStyle(look.faces, font_size or look.font_size, lang)
    columns = _Columns(look, style.font_size, first < len(paragraphs) and paragraphs[first].right_to_left)
    page = ComposedPage(style, look.width, look.height or 0)
    letters = columns.capacity(style.font_size, look.max_lines)
    for line in flow(instruction, 0, engine, style, columns.width, letters):
        placed = columns.place(line)
        if placed is None:
            raise CannotBeSetError("does_not_fit")
        page.placed.append(placed)
    if instruction:
        columns.skip(_BELOW_INSTRUCTION * style.font_size)
    _fill(page, columns, islice(flow(paragraphs, first, engine, style, columns.width, letters), look.max_lines))
    if look.height is None:
        page.height = -(-math.ceil(columns.lowest + look.margin) // page_size_multiple) * page_size_multiple
    return page


def _fill(page: ComposedPage, columns: _Columns, lines: Iterator[FlowLine]) -> None:
    try:
        for line in lines:
            placed = columns.place(line)
            if placed is None:
                break
            page.placed.append(placed)
            page.text_lines.append(line)
    except CannotBeSetError as error:
        page.end_reason = error.reason
    if not page.text_lines:
        raise CannotBeSetError(page.end_reason or "does_not_fit")
