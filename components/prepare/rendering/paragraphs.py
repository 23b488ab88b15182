"""Splits a document's text into paragraphs, and those into lines and pages."""

from collections.abc import Iterator
from dataclasses import dataclass

from components.prepare.typesetting.text_engine import Line, TextEngine, TextStyle, is_right_to_left


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, or the rest of one after a page break, which keeps the paragraph's base direction."""

    text: str
    right_to_left: bool


@dataclass(frozen=True)
class FlowLine:
    """A line with its position in the paragraphs.

    Attributes:
        paragraph: index of its paragraph.
        end: how many characters of that paragraph end with this line.
        right_to_left: its paragraph's base direction.
    """

    line: Line
    paragraph: int
    end: int
    right_to_left: bool


def split_paragraphs(text: str, reflow: bool) -> list[Paragraph]:
    """Return the paragraphs of a cleaned text.

    With ``reflow``, blank lines separate paragraphs and single line breaks become spaces; without it, every line is a
    paragraph.
    """
    blocks = text.split("\n\n") if reflow else text.split("\n")
    joined = (" ".join(block.split()) for block in blocks)
    return [Paragraph(block, is_right_to_left(block)) for block in joined if block]


def flow(
    paragraphs: list[Paragraph], first: int, engine: TextEngine, style: TextStyle, width: int, letters_at_once: int
) -> Iterator[FlowLine]:
    """Yield the paragraphs' lines for columns of ``width`` pixels; they are laid out lazily.

    Args:
        first: the paragraph to start with.
        letters_at_once: longer paragraphs are laid out in pieces of this size, so that a page of four lines does not
            lay out a paragraph of a million letters.

    Raises:
        CannotBeSetError: from the engine, when the affected line is requested.
    """
    for number in range(first, len(paragraphs)):
        paragraph = paragraphs[number]
        start = 0
        length = letters_at_once
        while start < len(paragraph.text):
            # The last line of a truncated piece may be incomplete.
            piece = paragraph.text[start : start + length]
            lines = engine.lay_out(piece, style, width, paragraph.right_to_left)
            if start + len(piece) < len(paragraph.text):
                if len(lines) == 1:
                    length *= 2
                    continue
                lines.pop()
            yield from (FlowLine(line, number, start + line.end, paragraph.right_to_left) for line in lines)
            start += lines[-1].end


def is_end(paragraphs: list[Paragraph], last: FlowLine) -> bool:
    """Return whether ``last`` is the last line of the text."""
    return last.paragraph == len(paragraphs) - 1 and not paragraphs[-1].text[last.end :].strip()


def cut_behind(paragraphs: list[Paragraph], last: FlowLine) -> int:
    """Return the paragraph to continue with after the line ``last``; if that is its own, remove what was drawn."""
    broken = paragraphs[last.paragraph]
    left = broken.text[last.end :].lstrip()
    if not left:
        return last.paragraph + 1
    paragraphs[last.paragraph] = Paragraph(left, broken.right_to_left)
    return last.paragraph
