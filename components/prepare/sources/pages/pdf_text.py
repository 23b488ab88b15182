"""The text of a PDF's page, compared with what the page shows."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from ctypes import c_ushort
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium

from components.prepare.documents.cleaning import is_removed
from components.prepare.sources.pages.pdf_ink import PageInk, Shown

# PDFium writes these for a hyphen at the end of a line and joins the lines; the page shows a hyphen.
_LINE_END_HYPHEN = re.compile("[\x02\ufffe](?:\r?\n)?")

# Word's code points for the bullets of the fonts Symbol and Wingdings.
_BULLETS = str.maketrans({"\uf0b7": "•", "\uf0a7": "▪", "\uf0d8": "➢", "\uf0fc": "✓"})

# Control characters, private use and U+FFFD: a glyph is drawn, but its character is unknown.
_NO_LETTER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")

_SPACES = frozenset(map(ord, " \t\r\n\xa0\u2028\u2029\u3000"))
_LINE_BREAKS, _JOINED_LINES = frozenset(map(ord, "\r\n")), frozenset((0x02, 0xFFFE))
_SOFT_HYPHEN, _NOT_A_CHARACTER = 0xAD, 0xFFFF
_LONGEST_WORD = 12
"""Scripts without spaces are checked in parts of this many characters."""
_ANGLES_LOOKED_AT = 200


@dataclass
class PageText:
    """What the text layer of a page says.

    Attributes:
        text: the words that the page shows, in reading order, with ``\\n`` as line break.
        unmapped: number of glyphs without a character.
        words: number of words inside the page's box, shown or not; of a word that is shown in part, the parts count.
        hidden: the words, and parts of words, that the page does not show.
    """

    text: str
    unmapped: int
    words: int
    hidden: list[str] = field(default_factory=list)


def page_text(page: pypdfium2.PdfPage, keep_invisible: bool = False) -> PageText:
    """Return the text of a page and the words that are in the text layer but not in the picture.

    A letter is hidden if it is drawn in an invisible mode (PDF 32000-1, table 106: modes 3 and 7), is less than 2
    points high, or less than half of its ink can be seen: white on white, clipped, covered. A word may be hidden from
    some letter on, or up to one; where shown and hidden letters alternate, the majority counts for all of the word. A
    U+00AD that is drawn is a hyphen; a glyph that the font maps to another character without a glyph is unmapped.

    The text is read as if the page were turned so that most letters are upright: PDFium reverses the lines of some
    other pages. Lines come in drawing order, the reading order in files from word processors, browsers and TeX. Only
    where the page or its letters are turned, and no two lines stand side by side as in columns or tables, they come
    from top to bottom.

    Args:
        keep_invisible: words in an invisible mode count as shown where there is ink below them (OCR of a scan).

    Raises:
        pypdfium2.PdfiumError: the page is broken.
    """
    turned = page.get_rotation()
    textpage = page.get_textpage()
    upright = _upright_rotation(textpage, turned)
    try:
        if upright != turned:
            page.set_rotation(upright)
            textpage = page.get_textpage()
        return _shown_text(page, textpage, keep_invisible, by_place=bool(turned or upright))
    finally:
        page.set_rotation(turned)


def _upright_rotation(textpage: pypdfium2.PdfTextPage, default: int) -> int:
    """Return the page rotation (0, 90, 180 or 270) at which most of the first letters are upright."""
    angles: Counter[int] = Counter()
    for number in range(min(textpage.count_chars(), _ANGLES_LOOKED_AT)):
        angle = pdfium.FPDFText_GetCharAngle(textpage, number)
        if angle >= 0 and pdfium.FPDFText_GetUnicode(textpage, number) not in _SPACES:
            angles[round(math.degrees(angle) / 90) % 4 * 90] += 1
    return (360 - angles.most_common(1)[0][0]) % 360 if angles else default


def _shown_text(
    page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage, keep_invisible: bool, by_place: bool
) -> PageText:
    count = textpage.count_chars()
    codes = _codes(textpage, count)
    unmapped = sum(pdfium.FPDFText_HasUnicodeMapError(textpage, number) == 1 for number in range(count))
    ink = PageInk(page, textpage)
    on_page = ink.on_page()
    letters = np.array([code not in _SPACES for code in codes], bool)
    shown = ink.shown(on_page & letters, keep_invisible) if letters.any() else []
    words, hidden = 0, list[str]()
    left_out = {number for number in range(count) if letters[number] and not on_page[number]}
    for word in _words(codes):
        for is_shown, part in _parts([number for number in word if number not in left_out], shown):
            words += 1
            if not is_shown:
                left_out.update(part)
                hidden.append(_joined([codes[number] for number in part]))
    for number in range(count):
        if codes[number] in _JOINED_LINES and not pdfium.FPDFText_IsHyphen(textpage, number):
            codes[number] = _NOT_A_CHARACTER  # the font says so, not PDFium
        if shown and shown[number] == "shown" and number not in left_out and _is_drawn_unseen(number, codes, ink):
            if 0xD800 <= codes[number] < 0xDC00:
                left_out.add(number + 1)
            codes[number] = ord("-") if codes[number] == _SOFT_HYPHEN else _NOT_A_CHARACTER
    kept = [number for number in range(count) if number not in left_out]
    lines = _in_lines(codes, kept, ink) if by_place and kept else [kept]
    text = "\n".join(_joined([codes[number] for number in line]) for line in lines)
    text = _LINE_END_HYPHEN.sub("-\n", text).replace("\r\n", "\n").replace("\r", "\n").translate(_BULLETS).strip()
    if left_out:
        text = "\n".join(re.sub(" {2,}", " ", line).strip() for line in text.split("\n") if line.strip())
    return PageText(text, unmapped + len(_NO_LETTER.findall(text)), words, hidden)


def _parts(word: Sequence[int], shown: Sequence[Shown]) -> list[tuple[bool, list[int]]]:
    """Return the parts of a word with whether the page shows them; a letter of which that is unknown goes with others.

    At most two parts: where shown and hidden letters alternate, the majority counts.
    """
    known = [shown[number] for number in word if shown[number] != "unknown"]
    last, states = known[0] if known else "shown", dict[int, bool]()
    for number in word:
        last = shown[number] if shown[number] != "unknown" else last
        states[number] = last == "shown"
    parts = [(state, list(part)) for state, part in groupby(word, states.__getitem__)]
    return parts if len(parts) <= 2 else [(2 * known.count("shown") >= len(known), list(word))]


def _is_drawn_unseen(number: int, codes: Sequence[int], ink: PageInk) -> bool:
    """Return whether a character that is drawn has a code that cleaning removes.

    Not if its glyph stands for several characters (a ligature with a joiner, an emoji with a variation selector).
    """
    units = 2 if 0xD800 <= codes[number] < 0xDC00 else 1  # PDFium gives both halves of a pair the box of the glyph
    character = _joined(codes[number : number + 2]) if units == 2 else chr(codes[number])
    if not is_removed(character) or _NO_LETTER.match(character):
        return False
    beside = [other for other in (number - 1, number + units) if 0 <= other < len(codes)]
    return not any((ink.boxes[other] == ink.boxes[number]).all() for other in beside)


def _in_lines(codes: Sequence[int], kept: Sequence[int], ink: PageInk) -> list[list[int]]:
    """Return the kept characters in lines from top to bottom; in drawing order if two lines stand side by side."""
    lines: list[list[int]] = [[]]
    for number in kept:
        if codes[number] not in _LINE_BREAKS:
            lines[-1].append(number)
        if codes[number] in _LINE_BREAKS or codes[number] in _JOINED_LINES:
            lines.append([])
    inked = [(line, [number for number in line if codes[number] not in _SPACES]) for line in lines]
    lines = [line for line, letters in inked if letters]
    tops = np.array([ink.boxes[letters, 1].min() for _, letters in inked if letters])
    bottoms = np.array([ink.boxes[letters, 3].max() for _, letters in inked if letters])
    common = np.minimum(bottoms, bottoms[:, None]) - np.maximum(tops, tops[:, None])
    beside = common > np.minimum(bottoms - tops, (bottoms - tops)[:, None]) / 2
    if np.triu(beside, 1).any():
        return lines
    return [lines[number] for number in np.argsort(tops, kind="stable")]


def _codes(textpage: pypdfium2.PdfTextPage, count: int) -> list[int]:
    """Return the code of each character; 0 for one without."""
    units = (c_ushort * (count + 1))()
    if pdfium.FPDFText_GetText(textpage, 0, count, units) == count + 1:
        return list(units)[:count]
    # Characters beyond U+FFFF take two units, and those without a code none: ask one by one.
    return [pdfium.FPDFText_GetUnicode(textpage, number) for number in range(count)]


def _words(codes: Sequence[int]) -> Iterator[range]:
    """Yield the numbers of the characters of each word, long ones in parts."""
    start = None
    for number, code in enumerate([*codes, 0x20]):
        if code in _SPACES:
            if start is not None:
                yield range(start, number)
            start = None
        elif start is None:
            start = number
        elif number - start >= _LONGEST_WORD and not 0xDC00 <= code < 0xE000:  # not between the halves of a pair
            yield range(start, number)
            start = number


def _joined(codes: Sequence[int]) -> str:
    """Return the text of UTF-16 or UTF-32 units."""
    text = "".join(map(chr, codes))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
