"""The text of a PDF's page, compared with what the page shows."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from ctypes import addressof, c_double, c_int, c_ushort
from dataclasses import dataclass, field

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium

# PDFium writes these for a hyphen at the end of a line and joins the lines; the page shows a hyphen.
_LINE_END_HYPHEN = re.compile("[\x02\ufffe](?:\r\n)?")

# Word's code points for the bullets of the fonts Symbol and Wingdings.
_BULLETS = str.maketrans({"\uf0b7": "•", "\uf0a7": "▪", "\uf0d8": "➢", "\uf0fc": "✓"})

# Control characters, private use and U+FFFD: a glyph is drawn, but its character is unknown.
_NO_LETTER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")

_SPACES = frozenset(map(ord, " \t\r\n\xa0\u2028\u2029\u3000"))
_SOFT_HYPHEN = 0xAD
_LONGEST_WORD = 12
"""Scripts without spaces are checked in parts of this many characters."""
_ANGLES_LOOKED_AT = 200
_LEAST_POINTS = 2.0
"""The height below which letters cannot be read; the smallest print in use has 4 points."""
_LEAST_CONTRAST = 16
"""Gray levels of 255 within a word's box; a word of light gray (#EEEEEE) on white has 17."""
_INVISIBLE_MODES = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)
_LONGEST_SIDE = 2000
_UNIT, _STEPS = 1000, 16  # PDFium gives whole pixels: measure the transformation in sixteenths, over 1000 points
_MOST_PIXELS = 179_000_000
"""Pillow refuses larger pictures, so a page with one is dropped later."""


@dataclass
class PageText:
    """What the text layer of a page says.

    Attributes:
        text: the words that the page shows, in reading order, with ``\\n`` as line break.
        unmapped: number of glyphs without a character.
        words: number of words inside the page's box, shown or not.
        hidden: the words that the page does not show.
    """

    text: str
    unmapped: int
    words: int
    hidden: list[str] = field(default_factory=list)


def page_text(page: pypdfium2.PdfPage, keep_invisible: bool = False) -> PageText:
    """Return the text of a page and the words that are in the text layer but not in the picture.

    A word is hidden if it is drawn in an invisible mode (PDF 32000-1, table 106: modes 3 and 7), is less than 2 points
    high, or has no contrast in its box: white on white, clipped, covered. A U+00AD that is drawn is a hyphen.

    The text is read as if the page were turned so that most letters are upright: PDFium reverses the lines of some
    other pages.

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
        return _shown_text(page, textpage, keep_invisible)
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


def _shown_text(page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage, keep_invisible: bool) -> PageText:
    count = textpage.count_chars()
    codes = _codes(textpage, count)
    unmapped = sum(pdfium.FPDFText_HasUnicodeMapError(textpage, number) == 1 for number in range(count))
    spans = list(_words(codes))
    ink = _Ink(page, textpage) if spans else None
    words, hidden = 0, list[str]()
    left_out = set[int]()
    for start, end in spans:
        assert ink is not None
        on_page, shown, cut = ink.of_word(start, end, keep_invisible)
        words += on_page
        if shown and cut:
            left_out.update(number for number in range(start, end) if not ink.is_on_page(number))
        if not shown:
            left_out.update(range(start, end))
            if on_page:
                hidden.append(_joined(codes[start:end]))
        elif _SOFT_HYPHEN in codes[start:end]:
            for number in range(start, end):
                if codes[number] == _SOFT_HYPHEN and ink.of_character(number):
                    codes[number] = ord("-")
    text = _joined([code for number, code in enumerate(codes) if number not in left_out])
    text = _LINE_END_HYPHEN.sub("-\n", text).replace("\r\n", "\n").replace("\r", "\n").translate(_BULLETS).strip()
    if left_out:
        lines = (" ".join(line.split(" ")) if line.strip() else "" for line in text.split("\n"))
        text = "\n".join(re.sub(" {2,}", " ", line).strip() for line in lines if line)
    return PageText(text, unmapped + len(_NO_LETTER.findall(text)), words, hidden)


def _codes(textpage: pypdfium2.PdfTextPage, count: int) -> list[int]:
    """Return the code of each character; 0 for one without."""
    units = (c_ushort * (count + 1))()
    if pdfium.FPDFText_GetText(textpage, 0, count, units) == count + 1:
        return list(units)[:count]
    # Characters beyond U+FFFF take two units, and those without a code none: ask one by one.
    return [pdfium.FPDFText_GetUnicode(textpage, number) for number in range(count)]


def _words(codes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last index (exclusive) of each word, long ones in parts."""
    start = None
    for number, code in enumerate([*codes, 0x20]):
        if code in _SPACES:
            if start is not None:
                yield start, number
            start = None
        elif start is None:
            start = number
        elif number - start == _LONGEST_WORD:
            yield start, number
            start = number


def _joined(codes: list[int]) -> str:
    """Return the text of UTF-16 or UTF-32 units."""
    text = "".join(map(chr, codes))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Ink:
    """Says of words whether the page shows them."""

    def __init__(self, page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage) -> None:
        self._page, self._textpage = page, textpage
        width, height = page.get_size()
        scale = min(1.0, _LONGEST_SIDE / max(width, height, 1))  # a pixel a point
        self._size = max(1, round(width * scale)), max(1, round(height * scale))
        self._pixels = self._drawn() if min(width, height) > 0 else None
        origin, right, up = (self._corner(x, y) for x, y in ((0, 0), (_UNIT, 0), (0, _UNIT)))
        self._origin = origin
        self._right = (right[0] - origin[0]) / _UNIT, (right[1] - origin[1]) / _UNIT
        self._up = (up[0] - origin[0]) / _UNIT, (up[1] - origin[1]) / _UNIT
        self._readable: dict[int, tuple[bool, bool]] = {}

    def _drawn(self) -> np.ndarray | None:
        """Return the page as (H, W) uint8 gray; None if it holds a picture that is too large to be decoded."""
        for picture in self._page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
            columns, rows = picture.get_px_size()
            if columns * rows > _MOST_PIXELS:
                return None
        columns, rows = self._size
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, pdfium.FPDFBitmap_Gray)
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, columns, rows)
        pdfium.FPDF_RenderPageBitmap(bitmap, self._page, 0, 0, columns, rows, 0, pdfium.FPDF_GRAYSCALE)
        return np.array(bitmap.to_numpy()).reshape(rows, columns)

    def of_word(self, start: int, end: int, keep_invisible: bool) -> tuple[bool, bool, bool]:
        """Return whether the word is on the page, whether it is shown, and whether the page's edge cuts it."""
        boxes = [self._box(rect) for rect in self._rects(start, end)]
        on_page = [box for box in boxes if self._on_page(box)]
        if boxes and not on_page:
            return False, False, False
        visible, large_enough = self._style(start)
        if not large_enough or not (visible or keep_invisible):
            return True, False, False
        columns, rows = self._size
        cut = any(box[0] < 0 or box[1] < 0 or box[2] > columns or box[3] > rows for box in boxes)
        # Without a box there is nothing to compare.
        return True, not boxes or any(self._has_ink(box) for box in on_page), cut

    def is_on_page(self, number: int) -> bool:
        """Return whether the middle of a character is inside the page's box."""
        box = self._character_box(number)
        return box is None or self._on_page(box)

    def of_character(self, number: int) -> bool:
        """Return whether there is ink in the box of a character."""
        box = self._character_box(number)
        return box is not None and self._has_ink(box)

    def _character_box(self, number: int) -> tuple[int, int, int, int] | None:
        left, right, bottom, top = c_double(), c_double(), c_double(), c_double()
        if not pdfium.FPDFText_GetCharBox(self._textpage, number, left, right, bottom, top):
            return None
        return self._box((left.value, top.value, right.value, bottom.value))

    def _height(self, number: int) -> float:
        """Return the height of a character's line box in points, across its direction."""
        box = pdfium.FS_RECTF()
        if not pdfium.FPDFText_GetLooseCharBox(self._textpage, number, box):
            return math.inf
        return max(abs(box.top - box.bottom), abs(box.right - box.left))

    def _rects(self, start: int, end: int) -> Iterator[tuple[float, float, float, float]]:
        for number in range(pdfium.FPDFText_CountRects(self._textpage, start, end - start)):
            left, top, right, bottom = c_double(), c_double(), c_double(), c_double()
            if pdfium.FPDFText_GetRect(self._textpage, number, left, top, right, bottom):
                yield left.value, top.value, right.value, bottom.value

    def _corner(self, across: float, up: float) -> tuple[float, float]:
        """Return where a point of the page is in the picture, in pixels from the left and the top."""
        x, y = c_int(), c_int()
        columns, rows = (side * _STEPS for side in self._size)
        pdfium.FPDF_PageToDevice(self._page, 0, 0, columns, rows, 0, across, up, x, y)
        return x.value / _STEPS, y.value / _STEPS

    def _box(self, rect: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Return a box in the page's coordinates as left, top, right, bottom in pixels."""
        (x0, y0), (rx, ry), (ux, uy) = self._origin, self._right, self._up
        x1, x2 = (x0 + rx * across + ux * up for across, up in (rect[:2], rect[2:]))
        y1, y2 = (y0 + ry * across + uy * up for across, up in (rect[:2], rect[2:]))
        return int(min(x1, x2)), int(min(y1, y2)), int(max(x1, x2)), int(max(y1, y2))

    def _on_page(self, box: tuple[int, int, int, int]) -> bool:
        across, down = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return 0 <= across <= self._size[0] and 0 <= down <= self._size[1]

    def _has_ink(self, box: tuple[int, int, int, int]) -> bool:
        if self._pixels is None:
            return True
        left, top, right, bottom = (max(0, value) for value in box)
        part = self._pixels[top : bottom + 1, left : right + 1]
        return bool(part.size) and int(part.max()) - int(part.min()) >= _LEAST_CONTRAST

    def _style(self, number: int) -> tuple[bool, bool]:
        """Return whether a character is drawn in a visible mode, and whether it is large enough to be read."""
        text = pdfium.FPDFText_GetTextObject(self._textpage, number)
        if not text:
            return True, True
        key = addressof(text.contents)
        if key not in self._readable:
            visible = pdfium.FPDFTextObj_GetTextRenderMode(text) not in _INVISIBLE_MODES
            self._readable[key] = visible, self._height(number) >= _LEAST_POINTS
        return self._readable[key]
