"""A PDF of page pictures with their text behind them, invisible and found by a search."""

import io
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fpdf import FPDF
from fpdf.enums import TextMode
from PIL import Image

from components.shared.artifacts.output_file import written_file
from components.shared.page_reader.pictures import PDF_SCALE

_FONT = "blank"
_UNITS = 1000  # of the font per em
_ADVANCE = 500  # of each blank glyph
_INK = 0.5  # the share of the way from the lightest to the darkest level at which ink begins


def write_searchable_pdf(pages: list[tuple[Image.Image, str]], target: Path) -> None:
    """Write pictures and their texts, one line of text behind each line of ink where their numbers agree.

    Where they do not, the lines of text are spread evenly over the inked part of the page: a search finds the page and
    about the place.
    """
    document = FPDF(unit="pt")
    document.set_auto_page_break(False)
    document.set_margin(0)
    with tempfile.TemporaryDirectory() as scratch:
        font = Path(scratch) / "blank.ttf"
        _write_blank_font({sign for _, text in pages for sign in text if sign.isprintable()} | {" "}, font)
        document.add_font(_FONT, fname=font)
        for picture, text in pages:
            width, height = (side / PDF_SCALE for side in picture.size)
            document.add_page(format=(width, height))
            document.image(_jpeg(picture), x=0, y=0, w=width, h=height)
            with document.local_context(text_mode=TextMode.INVISIBLE):
                _write_lines(document, picture, text)
        content = bytes(document.output())
    with written_file(target) as partial:
        partial.write_bytes(content)


def _write_lines(document: FPDF, picture: Image.Image, text: str) -> None:
    lines = ["".join(filter(str.isprintable, line)).strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    for line, (left, top, right, bottom) in zip(lines, _places(picture, len(lines)), strict=True):
        size = max(1.0, (bottom - top) / PDF_SCALE)
        document.set_font(_FONT, size=size)
        natural = len(line) * size * _ADVANCE / _UNITS
        document.set_stretching(100 * max(1.0, (right - left) / PDF_SCALE) / natural)
        document.text(left / PDF_SCALE, bottom / PDF_SCALE, line)


def _places(picture: Image.Image, lines: int) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom (pixels) of each line of text."""
    levels = np.asarray(picture.convert("L")).astype(np.float32)
    dark, light = float(levels.min()), float(levels.max())
    ink = levels < light - _INK * (light - dark) if light > dark else np.zeros(levels.shape, bool)
    rows = ink.any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
    bands = [(int(top), int(bottom)) for top, bottom in zip(edges[::2], edges[1::2], strict=True)]
    if len(bands) != lines:
        top, bottom = (bands[0][0], bands[-1][1]) if bands else (0, picture.height)
        cuts = np.linspace(top, bottom, lines + 1).astype(int).tolist()
        bands = list(pairwise(cuts))
    places = []
    for top, bottom in bands:
        columns = np.flatnonzero(ink[top:bottom].any(axis=0)) if bottom > top else np.array([], int)
        left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, picture.width)
        places.append((left, top, right, bottom))
    return places


def _write_blank_font(signs: set[str], path: Path) -> None:
    """Write a font in which each sign is a blank glyph of its own: real fonts lack signs, and nothing is drawn."""
    codes = sorted(ord(sign) for sign in signs)
    names = [".notdef", *(f"u{code:05X}" for code in codes)]
    font = FontBuilder(_UNITS, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({code: f"u{code:05X}" for code in codes})
    font.setupGlyf({name: Glyph() for name in names})
    font.setupHorizontalMetrics(dict.fromkeys(names, (_ADVANCE, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": _FONT, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(path)


def _jpeg(picture: Image.Image) -> io.BytesIO:
    stream = io.BytesIO()
    picture.convert("L").save(stream, format="JPEG", quality=85)
    stream.seek(0)
    return stream
