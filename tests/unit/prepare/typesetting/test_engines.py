"""Both text engines: Pillow compared with Pango as the reference, and the properties of every page of either."""

import random
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from components.prepare.rendering.composition import ComposedPage, compose
from components.prepare.rendering.page_drawing import draw_page
from components.prepare.rendering.page_look import PageLook
from components.prepare.rendering.paragraphs import Paragraph, cut_behind, split_paragraphs
from components.prepare.typesetting.fonts import covered_code_points, find_fonts
from components.prepare.typesetting.pango_engine import PangoEngine
from components.prepare.typesetting.pillow_engine import PillowEngine
from components.prepare.typesetting.text_engine import (
    CannotBeSetError,
    PlacedLine,
    TextEngine,
    TextStyle,
    is_right_to_left,
)
from tests.fixtures.built_font import built_font
from tests.fixtures.script_samples import SAMPLES, ScriptSample

STYLE = TextStyle((0,), 28, "und")
WIDTH = 900
ENGINES = ["pango", "pillow"]
BY_DEJAVU = [sample for sample in SAMPLES if sample.script in ("Latn", "Cyrl", "Grek", "Arab", "Hebr")]
OF_OTHER_FONTS = [sample for sample in SAMPLES if sample not in BY_DEJAVU]

# Correct lines matched at 0.918 or more in their worst part, lines with two swapped words at 0.60 or less, lines in
# the wrong base direction at 0.46 or less (all lines of the samples; Pango 1.50.12, HarfBuzz 6.0 against Pillow 13,
# 14.5).
SAME = 0.85
DIFFERENT = 0.7


@cache
def engine_called(name: str, *fonts: str) -> TextEngine:
    faces = find_fonts(fonts or ["DejaVuSans.ttf"])
    if name == "pango":
        try:
            return PangoEngine(faces)
        except OSError as error:
            pytest.skip(f"Pango cannot be used: {error}")
    if not features.check("raqm"):
        pytest.skip("this Pillow has no Raqm (it loads the system's FriBiDi)")
    return PillowEngine(faces)


def cropped(coverage: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(coverage > 40)
    return coverage[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def line_ink(engine: TextEngine, text: str, right_to_left: bool) -> np.ndarray:
    """Return the ink of ``text`` on one line."""
    [line] = engine.lay_out(text, STYLE, 4000, right_to_left)
    return cropped(engine.draw([PlacedLine(line, 50.0, 60.0)], STYLE, int(line.width) + 100, 100))


def unshaped_ink(text: str) -> np.ndarray:
    """Return one glyph per character, left to right."""
    [face] = find_fonts(["DejaVuSans.ttf"])
    font = ImageFont.truetype(str(face.path), STYLE.font_size, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (4000, 100))
    ImageDraw.Draw(image).text((50, 60), text, fill=255, font=font, anchor="ls")
    return cropped(np.array(image))


def worst_match(one: np.ndarray, other: np.ndarray) -> float:
    """Return the lowest correlation of two lines' ink over windows of about three letters; -1 if the widths differ."""
    if abs(one.shape[1] - other.shape[1]) > 3:
        return -1.0
    width = max(one.shape[1], other.shape[1])
    scaled = [cv2.resize(ink, (width, 40), interpolation=cv2.INTER_AREA).astype(np.float32) for ink in (one, other)]
    left, right = (cv2.GaussianBlur(ink, (0, 0), 1.5) for ink in scaled)
    windows = [slice(start, start + 80) for start in range(0, max(1, width - 40), 40)]
    matches = [np.corrcoef(left[:, window].ravel(), right[:, window].ravel())[0, 1] for window in windows]
    return float(min(match for match in matches if not np.isnan(match)))


def look(**changes: object) -> PageLook:
    values: dict = {
        "faces": (0,), "font_size": 28, "mode": None, "width": 1024, "height": None, "columns": 1, "margin": 30,
        "line_spacing": 1.25, "max_lines": 40, "ink": 0, "paper": 255, "augmentation_seed": 0,
    }  # fmt: skip
    return PageLook(**{**values, **changes})


def pages(text: str, engine: TextEngine, page_look: PageLook, lang: str = "und") -> Iterator[ComposedPage]:
    """Yield all pages of a text, as the document renderer cuts them."""
    paragraphs: list[Paragraph] = split_paragraphs(text, reflow=True)
    first = 0
    while first < len(paragraphs):
        page = compose(paragraphs, first, [], page_look, engine, lang, page_size_multiple=1)
        yield page
        first = cut_behind(paragraphs, page.text_lines[-1])


def ink_box(gray: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the pixels darker than half."""
    rows, columns = np.nonzero(gray < 128)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def sample_id(sample: ScriptSample) -> str:
    return sample.name


@pytest.mark.parametrize("sample", BY_DEJAVU, ids=sample_id)
def test_pillow_breaks_orders_and_joins_like_pango(sample: ScriptSample) -> None:
    pango, pillow = engine_called("pango"), engine_called("pillow")
    for paragraph in sample.text.split("\n\n"):
        right_to_left = is_right_to_left(paragraph)
        assert right_to_left == (sample.direction == "rtl")
        by_pango = pango.lay_out(paragraph, STYLE, WIDTH, right_to_left)
        by_pillow = pillow.lay_out(paragraph, STYLE, WIDTH, right_to_left)
        assert [line.text for line in by_pango] == [line.text for line in by_pillow]
        assert [line.width for line in by_pango] == pytest.approx([line.width for line in by_pillow], abs=2)
        for line in by_pango:
            match = worst_match(*(line_ink(engine, line.text, right_to_left) for engine in (pango, pillow)))
            assert match > SAME, line.text


@pytest.mark.parametrize(
    ("sample", "what"),
    [(sample, what) for sample in BY_DEJAVU if sample.direction == "rtl" for what in ("unshaped", "swapped", "turned")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_the_comparison_sees_wrong_forms_order_and_direction(sample: ScriptSample, what: str) -> None:
    pango, pillow = engine_called("pango"), engine_called("pillow")
    line = pango.lay_out(sample.text.split("\n\n")[0], STYLE, WIDTH, True)[-1 if what == "turned" else 0].text
    if what == "turned" and len(line.split()) < 2:
        line = pango.lay_out(sample.text.split("\n\n")[0], STYLE, WIDTH, True)[0].text
    first, second, *words = line.split()
    wrong = {
        "unshaped": lambda: unshaped_ink(line),
        "swapped": lambda: line_ink(pillow, " ".join([second, first, *words]), True),
        "turned": lambda: line_ink(pillow, line, False),
    }
    assert worst_match(line_ink(pango, line, True), wrong[what]()) < DIFFERENT


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("sample", BY_DEJAVU, ids=sample_id)
def test_lines_begin_at_the_margin_of_their_direction(sample: ScriptSample, name: str) -> None:
    engine = engine_called(name)
    [page] = pages(sample.text, engine, look(), sample.lang)
    gray = draw_page(page, look(), engine)
    assert len(page.placed) > 1
    for placed in page.placed:
        top, bottom = (round(placed.baseline + offset) for offset in (-placed.line.ascent, placed.line.descent))
        left, _, right, _ = ink_box(gray[max(0, top) : bottom])
        assert left >= 30 - 1 and right <= 1024 - 30 + 1
        distance = left - 30 if sample.direction == "ltr" else 1024 - 30 - right
        assert distance <= 5, "no letter has that much empty space at its side"


@pytest.mark.parametrize("sample", OF_OTHER_FONTS, ids=sample_id)
@pytest.mark.parametrize("name", ENGINES)
def test_what_no_font_has_a_glyph_for_is_refused(sample: ScriptSample, name: str) -> None:
    with pytest.raises(CannotBeSetError, match=r"glyph_missing|needs_shaping"):
        engine_called(name).lay_out(sample.text.split("\n\n")[0], STYLE, WIDTH, False)


def test_text_of_two_fonts_is_drawn_by_pango_and_refused_by_pillow(tmp_path: Path) -> None:
    fonts = [
        str(built_font(tmp_path / "one.ttf", "abc ", family="One")),
        str(built_font(tmp_path / "two.ttf", "xyz ", family="Two")),
    ]
    style = TextStyle((0, 1), 28, "en")
    with pytest.raises(CannotBeSetError, match="glyph_missing"):
        engine_called("pillow", *fonts).lay_out("abc xyz", style, WIDTH, False)
    pango = engine_called("pango", *fonts)
    [line] = pango.lay_out("abc xyz", style, WIDTH, False)
    coverage = pango.draw([PlacedLine(line, 10.0, 50.0)], style, 200, 80)
    assert cv2.connectedComponents((coverage > 128).astype(np.uint8))[0] - 1 == 6, "six rectangles, one per letter"


def test_pillow_refuses_thai_even_with_a_font_for_it() -> None:
    if not any(path.is_file() for path in Path("/usr/share/fonts").rglob("NotoSansThai-Regular.ttf")):
        pytest.skip("Debian's fonts-noto-core is not installed")
    with pytest.raises(CannotBeSetError, match="needs_shaping"):
        engine_called("pillow", "Noto Sans Thai").lay_out("สวัสดี", STYLE, WIDTH, False)


def test_pillow_without_raqm_refuses_what_needs_shaping() -> None:
    engine = PillowEngine(find_fonts(["DejaVuSans.ttf"]), shaping=False)
    assert engine.lay_out("Plain words, naïve café", STYLE, WIDTH, False)
    for text in ("سلام", "שלום", "e\u0301"):
        with pytest.raises(CannotBeSetError, match="needs_shaping"):
            engine.lay_out(text, STYLE, WIDTH, True)


@pytest.mark.parametrize("name", ENGINES)
def test_a_page_that_is_too_high_is_whole_or_refused_but_never_blank(name: str) -> None:
    engine = engine_called(name)
    [page] = pages("\n\n".join(["word"] * 700), engine, look(font_size=40, max_lines=1000))
    assert page.height > 32767
    try:
        gray = draw_page(page, look(font_size=40, max_lines=1000), engine)
    except CannotBeSetError as error:
        assert error.reason == "does_not_fit"
    else:
        assert ink_box(gray)[3] > page.height - 60


WORDS = [
    "river", "Ωκεανός", "Москва", "سلام", "می\u200cروم", "۱۹۴۸", "שלום", "(bread)", "12.5", "x" * 90, "naïve", "fi—ffi",
]  # fmt: skip


def words(seed: int, count: int, paragraphs: int) -> str:
    choice = random.Random(seed)
    return "\n\n".join(" ".join(choice.choices(WORDS, k=count)) for _ in range(paragraphs))


TEXTS = st.builds(words, st.integers(0, 2**32), st.integers(1, 120), st.integers(1, 4))
LOOKS = st.builds(
    look,
    font_size=st.integers(8, 40),
    width=st.integers(300, 1100),
    height=st.none() | st.integers(200, 700),
    columns=st.integers(1, 3),
    margin=st.integers(0, 40),
    max_lines=st.integers(1, 60),
)


@pytest.mark.parametrize("name", ENGINES)
@given(text=TEXTS, page_look=LOOKS)
@settings(max_examples=40)
def test_every_word_is_drawn_once_in_order_and_inside_the_margins(name: str, text: str, page_look: PageLook) -> None:
    engine = engine_called(name)
    labels = []
    try:
        for page in pages(text, engine, page_look):
            gray = draw_page(page, page_look, engine)
            assert gray.shape == (page.height, page.width)
            assert page_look.height in (None, page.height) and page.width == page_look.width
            left, top, right, bottom = ink_box(gray)
            # Letters may extend slightly beyond their place: by less than a sixth of the font size.
            over = 1 + page_look.font_size / 6
            assert left >= page_look.margin - over and right <= page.width - page_look.margin + over
            assert top >= page_look.margin - over and bottom <= page.height - page_look.margin + over
            labels.append("\n".join(line.line.text for line in page.text_lines))
    except CannotBeSetError as error:
        assert error.reason == "does_not_fit"
        return
    assert "".join("".join(labels).split()) == "".join(text.split())
    whole = " ".join(text.split())
    for label in labels:
        for line in label.split("\n"):
            assert line in whole


# Text after cleaning: no control characters, no surrogates, no line ends except \\n.
ANY_LETTER = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"))
DEJAVU = covered_code_points(find_fonts(["DejaVuSans.ttf"])[0])
COVERED = st.sampled_from(sorted(map(chr, DEJAVU)))


@pytest.mark.parametrize("name", ENGINES)
@given(text=st.text(ANY_LETTER, max_size=60) | st.text(COVERED, max_size=60))
@settings(max_examples=150)
def test_any_text_is_drawn_whole_or_refused_by_a_reason(name: str, text: str) -> None:
    engine = engine_called(name)
    paragraphs = split_paragraphs(text, reflow=True)
    for paragraph in paragraphs:
        try:
            lines = engine.lay_out(paragraph.text, STYLE, 300, paragraph.right_to_left)
        except CannotBeSetError as error:
            assert error.reason in ("glyph_missing", "needs_shaping", "does_not_fit")
            continue
        assert [line.start for line in lines] == [0, *(line.end for line in lines[:-1])]
        assert lines[-1].end == len(paragraph.text)
        assert all(paragraph.text[line.start : line.end].strip() == line.text for line in lines)
        assert not [letter for letter in paragraph.text if not has_a_glyph(letter)]


def has_a_glyph(letter: str) -> bool:
    """Return whether DejaVu Sans can draw ``letter``, at least in parts, or there is nothing to draw."""
    if letter.isspace() or regex.match(r"\p{Default_Ignorable_Code_Point}", letter):
        return True
    return {ord(part) for part in unicodedata.normalize("NFD", letter)} <= DEJAVU or ord(letter) in DEJAVU
