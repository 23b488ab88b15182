"""What a PDF's text layer says is compared with what its page draws, letter by letter."""

import itertools
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from components.prepare.documents.cleaning import clean_text, is_removed
from components.prepare.documents.document import Document, Unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.prepare.sources.pages.pdf import open_pdf
from components.prepare.sources.pages.pdf_text import page_text
from tests.fixtures.pdf_files import one_page_pdf, pdf_with_characters

FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>"
SHOWN = b"BT 0 g /F 20 Tf 100 700 Td (Twelve words that everybody sees on the page at the very top) Tj ET "
SHOWN_TEXT = "Twelve words that everybody sees on the page at the very top"
RULES = b"0 G 1 w 80 595 m 400 595 l S 80 614 m 400 614 l S 160 590 m 160 620 l S "
PARTLY_SHOWN = {  # what is drawn, the text that the page shows, and the parts that it does not show
    "white from a letter on": (b"BT (Total 12) Tj 1 1 1 rg (345) Tj ET", "Total 12", ["345"]),
    "white up to a letter": (b"BT 1 1 1 rg (Total 12) Tj 0 g (345) Tj ET", "345", ["Total", "12"]),
    "invisible from a letter on": (b"BT (Total 12) Tj 3 Tr (345) Tj ET", "Total 12", ["345"]),
    "clipped behind five letters": (b"q 0 0 151 800 re W n BT (Abcdefghij) Tj ET Q", "Abcde", ["fghij"]),
    "white on a line": (b"0 G 1 w 80 606 m 400 606 l S BT 1 1 1 rg (SECRET) Tj ET", "", ["SECRET"]),
    "white on many lines": (RULES + b"BT 1 1 1 rg (Hidden word) Tj ET", "", ["Hidden", "word"]),
    "white below lines": (b"BT 1 1 1 rg (Hidden word) Tj ET " + RULES, "", ["Hidden", "word"]),
    "small and white on other letters": (
        b"BT (Visible) Tj ET BT 1 1 1 rg /F 4 Tf 102 604 Td (ignore) Tj ET",
        "Visible",
        ["ignore"],
    ),
    "below a white box and a line": (
        b"BT (Hidden word) Tj ET 1 1 1 rg 80 590 300 40 re f 0 G 90 605 m 300 605 l S",
        "",
        ["Hidden", "word"],
    ),
    "below other letters": (
        b"BT 0.5 g (Draft) Tj ET 0 g 95 590 80 30 re f BT 1 g 1 0 0 1 100 600 Tm (Final) Tj ET",
        "Final",
        ["Draft"],
    ),
    "transparent": (b"q /T gs BT (Ghost) Tj ET Q", "", ["Ghost"]),
}


def read(path: Path) -> list[Document | Unreadable]:
    return list(read_documents(SourceSettings(source=str(path))))


@pytest.mark.parametrize("in_a_form", [False, True])
@pytest.mark.parametrize("how", PARTLY_SHOWN)
def test_letters_that_a_page_does_not_show_are_left_out_and_counted(how: str, in_a_form: bool, tmp_path: Path) -> None:
    drawn, text, hidden = PARTLY_SHOWN[how]
    drawn = drawn.replace(b"BT ", b"BT /F 20 Tf 1 0 0 1 100 600 Tm ").replace(b"102 604 Td", b"2 4 Td")
    resources = FONT + b"/ExtGState<</T<</ca 0>>>>"
    form = b"<</Type/XObject/Subtype/Form/BBox[0 0 800 800]/Resources<<%b>>/Length %d>>stream\n%b\nendstream"
    page = one_page_pdf(
        SHOWN + (b"/X Do" if in_a_form else drawn),
        resources + b"/XObject<</X 5 0 R>>" * in_a_form,
        *[form % (resources, len(drawn), drawn)] * in_a_form,
        box=b"0 0 800 800",
    )
    (tmp_path / "a.pdf").write_bytes(page)
    marker, document = read(tmp_path / "a.pdf")
    assert isinstance(document, Document) and document.text == f"{SHOWN_TEXT}\n{text}".strip()
    assert isinstance(marker, Unreadable)
    assert (marker.reason, marker.count) == ("word_without_ink", len(hidden))
    assert all(repr(part) in marker.problem for part in hidden)


def test_letters_drawn_twice_to_look_bold_are_shown(tmp_path: Path) -> None:
    for other in (b"100 600 Tm", b"100.3 600 Tm"):
        twice = b"BT /F 20 Tf 1 0 0 1 100 600 Tm (Bold) Tj ET BT /F 20 Tf 1 0 0 1 %b (Bold) Tj ET" % other
        (tmp_path / "a.pdf").write_bytes(one_page_pdf(twice, FONT))
        (document,) = read(tmp_path / "a.pdf")
        assert isinstance(document, Document) and "Bold" in document.text


TEXT = """The office’s first flow: fi ffi ffl, naïve café – Ångström.
It's 1.5 l; e.g. “quoted” i.e. (a, b) [c] {d}: x·y = −3;
|l|I|1|,.;:'`"-_~^° à é î õ ü ñ ç e\u0301 a\u0308 o\u0302
Привет мир, Ελληνικά, tiny … dots"""


@pytest.mark.parametrize("font_type", [3, 42])
def test_small_light_and_slanting_letters_are_complete(font_type: int, tmp_path: Path) -> None:
    kinds = itertools.product((4, 9), ("black", "#eeeeee", "#ffff00"), (0, 30), ("DejaVu Sans", "DejaVu Serif"))
    with matplotlib.rc_context({"pdf.fonttype": font_type}), PdfPages(tmp_path / "a.pdf") as pdf:
        for size, color, rotation, family in kinds:
            figure = Figure(figsize=(8, 8))
            where = {"fontsize": size, "color": color, "rotation": rotation, "family": family}
            figure.text(0.1, 0.1, TEXT, va="bottom", parse_math=False, **where)
            pdf.savefig(figure)
    (document,) = read(tmp_path / "a.pdf")
    assert isinstance(document, Document) and len(document.pictures) == 24
    assert {clean_text(picture.text) for picture in document.pictures} == {clean_text(TEXT)}


def shuffled(lines: list[tuple[bytes, bytes]], order: tuple[int, ...]) -> bytes:
    return b" ".join(b"BT /F 20 Tf %b Tm (%b) Tj ET" % lines[number] for number in order)


TURNED = {  # text matrices of consecutive lines, by the rotation of their letters
    0: [b"1 0 0 1 100 %d" % y for y in (700, 670, 640)],
    90: [b"0 1 -1 0 %d 100" % x for x in (100, 130, 160)],
    180: [b"-1 0 0 -1 500 %d" % y for y in (100, 130, 160)],
    270: [b"0 -1 1 0 %d 700" % x for x in (500, 470, 440)],
}
ROTATED = b"0 0 600 800]/Rotate %d/CropBox[0 0 600 800"


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize(
    ("turn", "rotate"), [pair for pair in itertools.product(TURNED, (0, 90, 180, 270)) if pair != (0, 0)]
)
def test_lines_of_turned_pages_come_by_their_place(
    order: tuple[int, ...], turn: int, rotate: int, tmp_path: Path
) -> None:
    lines = list(zip(TURNED[turn], (b"First line", b"Second line", b"Third line"), strict=True))
    page = one_page_pdf(shuffled(lines, order), FONT, box=ROTATED % rotate)
    (tmp_path / "a.pdf").write_bytes(page)
    (document,) = read(tmp_path / "a.pdf")
    assert isinstance(document, Document) and document.text == "First line\nSecond line\nThird line"


@pytest.mark.parametrize("rotate", [0, 90])
def test_columns_come_in_drawing_order(rotate: int, tmp_path: Path) -> None:
    places = [(100, 700), (100, 670), (350, 700), (350, 670)]
    lines = [(b"1 0 0 1 %d %d" % place, b"Line %d" % number) for number, place in enumerate(places, start=1)]
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(shuffled(lines, (0, 1, 2, 3)), FONT, box=ROTATED % rotate))
    (document,) = read(tmp_path / "a.pdf")
    assert isinstance(document, Document) and document.text == "Line 1\nLine 2\nLine 3\nLine 4"


WORD_S_BULLETS = {0xF0B7, 0xF0A7, 0xF0D8, 0xF0FC}
PLANES = [*range(0xD800), *range(0xE000, 0xF900, 16), *range(0xF900, 0x10000), *range(0x1D173, 0x1D17B), 0x10FFFF]
TAGS = range(0xE0000, 0xE1000, 16)
REMOVED = [code for code in [*PLANES, *TAGS] if is_removed(chr(code)) and code not in WORD_S_BULLETS]
"""What cleaning removes from labels, of private and other large ranges every 16th."""
A_PAGE = 190


def test_a_glyph_with_ink_is_never_removed_from_a_label(tmp_path: Path) -> None:
    assert {0xAD, 0x200B, 0x2060, 0xFEFF, 0x200D, 0x2062, 0x34F, 0x180E, 0xFE0F, 0x115F, 0x3164} <= set(REMOVED)
    assert len(REMOVED) > 100 and not {0x378, 0x2FE0, 0xE5DC} & set(REMOVED), "letters of newer Unicode, and private"
    for start in range(0, len(REMOVED), A_PAGE):
        codes = REMOVED[start : start + A_PAGE]
        (tmp_path / "a.pdf").write_bytes(pdf_with_characters(codes))
        with open_pdf(tmp_path / "a.pdf") as pdf:
            page = page_text(pdf[0])
        assert page.unmapped == len(codes) - (0xAD in codes), hex(codes[0])
        assert clean_text(page.text).count("-") == (0xAD in codes)


def test_many_texts_above_each_other_hide_none_elsewhere(tmp_path: Path) -> None:
    """Of 20 texts at one place 16 are looked at; a doubtful one elsewhere, drawn later, is looked at all the same."""
    pile = b"".join(b"BT /F 20 Tf 1 0 0 1 %d 600 Tm (Pile) Tj ET " % (100 + number) for number in range(20))
    apart = b"BT /F 20 Tf 1 0 0 1 100 500 Tm (Below) Tj ET BT 1 0 0 1 103 500 Tm /F 20 Tf (Below) Tj ET"
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(SHOWN + pile + apart, FONT, box=b"0 0 800 800"))
    with open_pdf(tmp_path / "a.pdf") as pdf:
        assert "Below" in page_text(pdf[0]).text
