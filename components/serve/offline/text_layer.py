"""Puts the text that was read behind the pages of a PDF or picture file: invisible, and found by a search.

A PDF keeps its pages as they are. The pages of a picture file become PDF pages of the size that the file's dpi say.
The files are strangers', so this runs in a reading child (``components.shared.foreign_files``).
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pypdfium2
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from fpdf import FPDF
from fpdf.enums import TextMode
from PIL import Image, ImageOps

from components.serve.documents.opening import frames, is_pdf
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.page_reader.pictures import PDF_SCALE, gray_page

DEFAULT_DPI = 150.0
"""of a picture that says none, or one outside of 30 to 4800; PDFs are read at this resolution too"""
_DPI = (30.0, 4800.0)
_ORIENTATION = 274  # EXIF's tag; 1 is upright
_JPEG_QUALITY = 90
_FONT = "blank"
_UNITS = 1000  # of the font per em
_ADVANCE = 500  # of each blank glyph
_INK = 0.5  # the share of the way from the lightest to the darkest level at which ink begins


@dataclass(frozen=True)
class TextToAdd:
    """A file, the text of each of its pages, and where the PDF goes."""

    source: Path
    texts: tuple[str, ...]
    target: Path


def write_with_text(_: None, task: TextToAdd) -> Iterator[int]:
    """Write the PDF, and yield each page's number (from 1) when its text is placed, and the last one once more.

    One line of text stands behind each line of ink where their numbers agree. Where they do not, the lines of text are
    spread evenly over the inked part of the page: a search finds the page and about the place.

    Raises:
        Exception: the file cannot be opened any more, or the PDF cannot be written.
    """
    warnings.simplefilter("ignore")  # Pillow's, about size and unusual tags: the file has been read before
    content = task.source.read_bytes()
    write = _add_to_pdf if is_pdf(content) else _pdf_of_pictures
    yield from write(content, task)
    yield len(task.texts)


def _add_to_pdf(content: bytes, task: TextToAdd) -> Iterator[int]:
    document = pypdfium2.PdfDocument(content)
    try:
        for index, text in enumerate(task.texts):
            page = document[index]
            layer = pypdfium2.PdfDocument(_layer_of(page, text))
            over = layer.page_as_xobject(0, document).as_pageobject()
            over.set_matrix(_from_displayed(page))
            page.insert_obj(over)
            page.gen_content()
            page.close()
            layer.close()
            yield index + 1
        document.save(task.target)
    finally:
        document.close()


def _layer_of(page: pypdfium2.PdfPage, text: str) -> bytes:
    """Return a PDF of one page, as large as ``page`` is displayed, with the text alone."""
    picture = page.render(scale=PDF_SCALE).to_pil().convert("L")
    with _document({*text}) as layer:
        layer.add_page(format=page.get_size())
        _write_lines(layer, picture, text)
        return bytes(layer.output())


def _from_displayed(page: pypdfium2.PdfPage) -> pypdfium2.PdfMatrix:
    """Return what maps points of the page as it is displayed, from its lower left corner, to its own coordinates."""
    left, bottom, right, top = page.get_bbox()
    width, height = right - left, top - bottom
    return {
        0: pypdfium2.PdfMatrix(1, 0, 0, 1, left, bottom),
        90: pypdfium2.PdfMatrix(0, 1, -1, 0, left + width, bottom),
        180: pypdfium2.PdfMatrix(-1, 0, 0, -1, left + width, bottom + height),
        270: pypdfium2.PdfMatrix(0, -1, 1, 0, left, bottom + height),
    }[page.get_rotation()]


def _pdf_of_pictures(content: bytes, task: TextToAdd) -> Iterator[int]:
    with _document({sign for text in task.texts for sign in text}) as document:
        for number, (frame, text) in enumerate(zip(frames(content), task.texts, strict=True), start=1):
            gray = gray_page(frame)
            across, down = (72 / dpi for dpi in _dpi(frame, gray.size))
            document.add_page(format=(gray.width * across, gray.height * down))
            document.image(_embedded(frame, content), x=0, y=0, w=gray.width * across, h=gray.height * down)
            _write_lines(document, gray, text)
            yield number
        task.target.write_bytes(document.output())


def _dpi(frame: Image.Image, upright: tuple[int, int]) -> tuple[float, float]:
    """Return the dots per inch across and down of a picture whose size is ``upright`` when it is upright."""
    said = frame.info.get("dpi", ())
    known = len(said) == 2 and all(_DPI[0] <= float(value) <= _DPI[1] for value in said)  # NaN is in no range
    across, down = map(float, said) if known else (DEFAULT_DPI, DEFAULT_DPI)
    return (across, down) if upright == frame.size else (down, across)


def _embedded(frame: Image.Image, content: bytes) -> Image.Image | io.BytesIO:
    """Return the page's picture in its colours: a JPEG and black and white as they are, others as JPEG."""
    upright = frame.getexif().get(_ORIENTATION, 1) == 1
    if frame.format == "JPEG" and frame.mode in ("L", "RGB") and upright:
        return io.BytesIO(content)
    page = _on_paper(frame)
    if page.mode == "1":
        return page
    stream = io.BytesIO()
    profile = frame.info.get("icc_profile") if page.mode == frame.mode else None
    page.save(stream, format="JPEG", quality=_JPEG_QUALITY, icc_profile=profile)
    stream.seek(0)
    return stream


def _on_paper(frame: Image.Image) -> Image.Image:
    """Return a picture upright and on white paper, in black and white (1), grey (L) or colours (RGB)."""
    if frame.mode.startswith("I;16"):
        return gray_page(frame)
    page = ImageOps.exif_transpose(frame)
    if page.has_transparency_data:
        paper = Image.new("RGBA", page.size, "white")
        return Image.alpha_composite(paper, page.convert("RGBA")).convert("RGB")
    return page if page.mode in ("1", "L") else page.convert("RGB")


@contextmanager
def _document(signs: set[str]) -> Iterator[FPDF]:
    """Yield an empty document in points, whose font has a blank glyph for each of ``signs``."""
    with scratch_folder("deepsynth-font") as scratch:
        font = scratch / "blank.ttf"
        _write_blank_font({sign for sign in signs if sign.isprintable()} | {" "}, font)
        document = FPDF(unit="pt")
        document.set_auto_page_break(False)
        document.set_margin(0)
        document.add_font(_FONT, fname=font)
        yield document


def _write_lines(document: FPDF, picture: Image.Image, text: str) -> None:
    """Write a page's text on the document's last page, of which ``picture`` is a picture."""
    lines = ["".join(filter(str.isprintable, line)).strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    across, down = document.w / picture.width, document.h / picture.height
    with document.local_context(text_mode=TextMode.INVISIBLE):
        for line, (left, top, right, bottom) in zip(lines, _places(picture, len(lines)), strict=True):
            size = max(1.0, (bottom - top) * down)
            document.set_font(_FONT, size=size)
            natural = len(line) * size * _ADVANCE / _UNITS
            document.set_stretching(100 * max(1.0, (right - left) * across) / natural)
            document.text(left * across, bottom * down, f"{line} ")  # PDFium joins the lines of turned pages


def _places(picture: Image.Image, lines: int) -> list[tuple[int, int, int, int]]:
    """Return left, top, right and bottom (pixels) of each line of text."""
    levels = np.asarray(picture)
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
