"""A document's text as paragraphs, consumed line by line and page by page."""

from collections.abc import Iterator
from dataclasses import dataclass

from components.prepare.typesetting.text_engine import Line, TextEngine, TextStyle, is_right_to_left


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, or what is left of it after a page's end: its base direction stays that of its first letters."""

    text: str
    right_to_left: bool


@dataclass(frozen=True)
class FlowLine:
    """A line with its place in the flow of paragraphs.

    Attributes:
        paragraph: index of its paragraph in the flow.
        end: how many characters of that paragraph are used up behind it.
        right_to_left: its paragraph's base direction.
    """

    line: Line
    paragraph: int
    end: int
    right_to_left: bool


def split_paragraphs(text: str, reflow: bool) -> list[Paragraph]:
    """Return the paragraphs of a cleaned text.

    With ``reflow`` blank lines part paragraphs and single line ends are spaces; without it every line is one.
    """
    blocks = text.split("\n\n") if reflow else text.split("\n")
    joined = (" ".join(block.split()) for block in blocks)
    return [Paragraph(block, is_right_to_left(block)) for block in joined if block]


def flow(
    paragraphs: list[Paragraph], first: int, engine: TextEngine, style: TextStyle, width: int, letters_at_once: int
) -> Iterator[FlowLine]:
    """Yield the paragraphs' lines for columns of ``width`` pixels; laid out only as far as they are asked for.

    Args:
        first: the paragraph to begin with.
        letters_at_once: a longer paragraph is laid out in pieces, so that a page of four lines does not lay out a
            paragraph of a million letters.

    Raises:
        CannotBeSetError: from the engine, when the line that it is about is asked for.
    """
    for number in range(first, len(paragraphs)):
        paragraph = paragraphs[number]
        start = 0
        length = letters_at_once
        while start < len(paragraph.text):
            # The last line of a piece that was cut off is not yet a whole one.
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
    """Return whether nothing follows the line ``last``."""
    return last.paragraph == len(paragraphs) - 1 and not paragraphs[-1].text[last.end :].strip()


def cut_behind(paragraphs: list[Paragraph], last: FlowLine) -> int:
    """Return the paragraph that follows the line ``last``; where it stands in one, cut its start off that one."""
    broken = paragraphs[last.paragraph]
    left = broken.text[last.end :].lstrip()
    if not left:
        return last.paragraph + 1
    paragraphs[last.paragraph] = Paragraph(left, broken.right_to_left)
    return last.paragraph
