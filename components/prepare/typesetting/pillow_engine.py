"""Text laid out and drawn by Pillow, which pip installs without system libraries.

With Raqm (in Pillow's wheels; it loads the system's FriBiDi), words are shaped and reordered; one font must cover
a whole paragraph. Without Raqm, only left-to-right text with one glyph per character is drawn. Text that would come out
wrong is rejected: scripts that break lines between words without spaces (Thai, Lao, Khmer, Burmese).
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import PIL
import regex
from PIL import Image, ImageDraw, ImageFont, features

from components.prepare.typesetting.fonts import FontFace, covered_code_points
from components.prepare.typesetting.text_engine import CannotBeSetError, Line, PlacedLine, TextStyle

_LINES_END_BY_DICTIONARY = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Tham}]")
_NO_SPACES = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_JOINED = regex.compile(r"[\p{Arabic}\p{Syriac}\p{Nko}\p{Mongolian}\p{Mandaic}]")
_GRAPHEME = regex.compile(r"\X")
_NOT_AT_LINE_START = frozenset(
    "、。，．：；！？）］｝〉》」』】〕’”ーゝゞ々ぁぃぅぇぉっゃゅょァィゥェォッャュョ)]}!?.,:;%"
)
_FORMAT_CONTROLS = frozenset("\u200c\u200d")


class PillowEngine:
    """Pillow with the configured fonts, one per paragraph."""

    def __init__(self, faces: Sequence[FontFace], shaping: bool | None = None) -> None:
        """``shaping``: use Raqm; None: use it if available."""
        self._faces = faces
        self._shaping = bool(features.check("raqm")) if shaping is None else shaping
        shapers = [f"{name}-{features.version(name)}" for name in ("raqm", "harfbuzz", "fribidi")]
        drawers = [f"pillow-{PIL.__version__}", f"freetype-{features.version('freetype2')}"]
        self.name = " ".join(drawers + (shapers if self._shaping else ["basic"]))

    def lay_out(self, text: str, style: TextStyle, width: int, right_to_left: bool) -> list[Line]:
        """See ``TextEngine``; uses the first font of the style that covers the paragraph."""
        self._check_can_be_set(text)
        face = self._covering_face(text, style.faces)
        font = sized_font(self._faces[face], style.font_size, self._shaping)
        ascent, descent = font.getmetrics()
        lines = []
        for start, end in self._line_ranges(text, font, width):
            words = text[start:end].strip()
            handle = (self._faces[face], right_to_left, face)
            lines.append(Line(start, end, words, _length(font, words), float(ascent), float(descent), handle))
        return lines

    def used_faces(self, lines: Sequence[PlacedLine], style: TextStyle) -> list[int]:
        """See ``TextEngine``."""
        letters: Counter[int] = Counter()
        for placed in lines:
            letters[placed.line.handle[2]] += len(placed.line.text)
        return sorted(letters, key=lambda face: (-letters[face], style.faces.index(face)))

    def draw(self, lines: Sequence[PlacedLine], style: TextStyle, width: int, height: int) -> np.ndarray:
        """See ``TextEngine``."""
        image = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(image)
        for placed in lines:
            face, right_to_left, _ = placed.line.handle
            font = sized_font(face, style.font_size, self._shaping)
            direction = ("rtl" if right_to_left else "ltr") if self._shaping else None
            draw.text(
                (placed.x, placed.baseline), placed.line.text, fill=255, font=font, anchor="ls", direction=direction
            )
        return np.array(image)

    def _check_can_be_set(self, text: str) -> None:
        if text.isascii():
            return
        if _LINES_END_BY_DICTIONARY.search(text) or (not self._shaping and _needs_shaping(text)):
            raise CannotBeSetError("needs_shaping")

    def _covering_face(self, text: str, order: Sequence[int]) -> int:
        needed = set(map(ord, set(text) - _FORMAT_CONTROLS))
        for index in order:
            if needed <= covered_code_points(self._faces[index]):
                return index
        raise CannotBeSetError("glyph_missing")

    def _line_ranges(self, text: str, font: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int]]:
        """Fill lines greedily with pieces; a line may break between two pieces."""
        ranges: list[tuple[int, int]] = []
        start = end = 0
        advance = 0.0
        for piece in _pieces(text):
            piece_width = _width(font, piece)
            if end > start and advance + piece_width > width and _length(font, text[start:end] + piece) > width:
                ranges.append((start, end))
                start, advance = end, 0.0
            if piece_width > width and _length(font, piece) > width:
                for part in self._broken(piece, font, width):
                    ranges.append((end, end + len(part)))
                    end += len(part)
                start, _ = ranges.pop()
                advance = _width(font, text[start:end])
                continue
            end += len(piece)
            advance += piece_width
        return [*ranges, (start, end)] if end > start else ranges

    def _broken(self, word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
        """Split ``word``, which is wider than a line, into parts that fit; graphemes stay whole."""
        if _JOINED.search(word):
            raise CannotBeSetError("does_not_fit")
        parts, part = [], ""
        for grapheme in _GRAPHEME.findall(word):
            if part and _length(font, part + grapheme) > width:
                parts.append(part)
                part = ""
            part += grapheme
            if _length(font, part) > width:
                raise CannotBeSetError("does_not_fit")
        return [*parts, part]


@lru_cache(maxsize=512)
def sized_font(face: FontFace, size: int, shaping: bool) -> ImageFont.FreeTypeFont:
    """Return a font at ``size`` pixels per em."""
    engine = ImageFont.Layout.RAQM if shaping else ImageFont.Layout.BASIC
    return ImageFont.truetype(str(face.path), size, index=face.index, layout_engine=engine)


def _length(font: ImageFont.FreeTypeFont, line: str) -> float:
    """Return a line's advance in pixels, without trailing white space."""
    return float(font.getlength(line.rstrip()))


@lru_cache(maxsize=65536)
def _width(font: ImageFont.FreeTypeFont, piece: str) -> float:
    return float(font.getlength(piece))


def _pieces(text: str) -> list[str]:
    """Split a paragraph where a line may break: after white space, and between characters of scripts without spaces."""
    words = regex.findall(r"\s*\S+\s*|\s+", text)
    if text.isascii() or not _NO_SPACES.search(text):
        return words
    pieces: list[str] = []
    for word in words:
        for grapheme in _GRAPHEME.findall(word):
            stays = not pieces or grapheme[0].isspace() or grapheme[0] in _NOT_AT_LINE_START
            between_letters = bool(pieces) and not (_NO_SPACES.match(grapheme) or _NO_SPACES.match(pieces[-1][-1]))
            begins_word = bool(pieces) and pieces[-1][-1].isspace()
            if pieces and not begins_word and (stays or between_letters):
                pieces[-1] += grapheme
            else:
                pieces.append(grapheme)
    return pieces


def _needs_shaping(text: str) -> bool:
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL", "AN") or unicodedata.category(letter) in ("Mn", "Mc", "Cf")
        for letter in text
    )
