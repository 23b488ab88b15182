"""Documents that exist as pictures: born-digital PDFs, and scans with their texts beside them."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.text_decoding import WrongEncodingError
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents, source_digest
from components.prepare.sources.pages.scan_text import ScanTextError, alto_text, hocr_text
from components.shared.errors import UserError
from tests.fixtures.pdf_files import one_page_pdf, pdf_of_objects, pdf_with_password, pdf_with_text, write_pdf


def read(source: str | Path, **values: object) -> list[Document | Unreadable]:
    return list(read_documents(SourceSettings(source=str(source), **values)))


def only_document(source: str | Path, **values: object) -> Document:
    (document,) = read(source, **values)
    assert isinstance(document, Document)
    return document


def test_a_pdf_is_one_document_with_a_picture_per_page(tmp_path: Path) -> None:
    path = write_pdf(
        tmp_path / "report.pdf", ["The first page.\nIts second line.", "", "Die dritte Seite: Größe, œuvre."]
    )
    document = only_document(path, lang="de")
    assert (document.source_id, document.lang, document.title) == ("report.pdf", "de", None)
    assert [(picture.path, picture.page_index) for picture in document.pictures] == [(str(path), i) for i in range(3)]
    texts = [picture.text for picture in document.pictures]
    assert texts == ["The first page.\nIts second line.", "", "Die dritte Seite: Größe, œuvre."]
    assert document.text == f"{texts[0]}\n\n{texts[2]}"


def test_a_hyphen_at_a_line_end_stays_as_it_is_drawn(tmp_path: Path) -> None:
    drawn = "A line that ends with a hy-\nphen, and a well-known one that does not."
    assert only_document(write_pdf(tmp_path / "a.pdf", [drawn])).text == drawn


def test_right_to_left_text_comes_in_logical_order(tmp_path: Path) -> None:
    drawn = "این یک متن فارسی است\nשלום עולם"
    assert only_document(write_pdf(tmp_path / "a.pdf", [drawn])).text == drawn


def test_text_outside_of_a_page_is_not_on_it(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_with_text(b"Outside", box=b"0 0 600 400"))
    assert [picture.text for picture in only_document(tmp_path / "a.pdf").pictures] == [""]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(b"Hello A", b"<</Type/Encoding/Differences[65/nosuchglyph]>>"), (b"Hello \\001", b"/WinAnsiEncoding")],
)
def test_a_page_whose_letters_are_unknown_is_left_out_by_name(text: bytes, encoding: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_with_text(text, encoding))
    for on_unreadable in ("stop", "skip"):  # the file is intact, so it never stops the step
        (marker,) = read(tmp_path / "a.pdf", on_unreadable=on_unreadable)
        assert isinstance(marker, Unreadable)
        assert (marker.source_id, marker.reason) == ("a.pdf#page=1", "page_text_unmapped")


PDF_TREE = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"]
BROKEN_PDFS = {
    "not a PDF": (b"garbage " * 100, "cannot be opened"),
    "empty": (b"", "cannot be opened"),
    "cut off": (pdf_with_text(b"Hello")[:60], "cannot be opened"),
    "encrypted": (pdf_with_password(), "password"),
    "without pages": (pdf_of_objects(PDF_TREE), "cannot be opened"),
}


@pytest.mark.parametrize("kind", BROKEN_PDFS)
def test_a_broken_pdf_is_refused_by_name_or_counted(kind: str, tmp_path: Path) -> None:
    content, problem = BROKEN_PDFS[kind]
    (tmp_path / "b.pdf").write_bytes(content)
    for name in ("a.pdf", "c.pdf"):
        write_pdf(tmp_path / name, [f"A page of {name}."])
    with pytest.raises(UserError, match=rf"b\.pdf: .*{problem}.*on_unreadable"):
        read(tmp_path)
    documents = read(tmp_path, on_unreadable="skip")
    assert [document.source_id for document in documents] == ["a.pdf", "b.pdf", "c.pdf"]
    assert isinstance(documents[1], Unreadable) and problem in documents[1].problem
    assert documents[1].reason == "file_unreadable"
    if kind == "without pages":  # the previous file's error is not repeated
        assert "password" not in documents[1].problem


ALTO = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="{namespace}"><Layout>{order}<Page ID="p"><TopMargin><TextBlock ID="t"><TextLine ID="tl">
  <String CONTENT="Running"/><SP/><String CONTENT="head"/></TextLine></TextBlock></TopMargin><PrintSpace>
  <ComposedBlock ID="c"><TextBlock ID="b1"><TextLine ID="l1"><String CONTENT="Größe"/><SP/><String CONTENT="und"/>
  </TextLine><TextLine ID="l2"><String CONTENT="Zei" SUBS_TYPE="HypPart1" SUBS_CONTENT="Zeile"/><HYP CONTENT="\xad"/>
  </TextLine></TextBlock></ComposedBlock><TextBlock ID="b2"><TextLine ID="l3"><String CONTENT="le"/>
  <String CONTENT="&amp;"/><String CONTENT="Ende."/></TextLine></TextBlock></PrintSpace></Page></Layout></alto>"""
IN_FILE_ORDER = "Running head\n\nGröße und\nZei-\n\nle & Ende."

HOCR = """<html xmlns="http://www.w3.org/1999/xhtml"><head><title>not text</title></head><body>
<div class='ocr_page' id='page_1'><div class='ocr_carea'><p class='ocr_par' lang='deu'>
<span class='ocr_line' title="bbox 1 2 3 4"><span class='ocrx_word'>Größe</span> <span class='ocrx_word'>und</span>
</span><span class='ocr_line'><span class='ocrx_word'><strong>Zeile</strong></span></span></p>
<p class='ocr_par'><span class='ocr_header'>A&amp;B</span></p></div></div></body></html>"""


@pytest.mark.parametrize("version", ["", "ns-v2#", "ns-v3#", "ns-v4#"])
def test_alto_is_read_by_lines_in_the_order_of_the_file(version: str) -> None:
    namespace = f"http://www.loc.gov/standards/alto/{version}" if version else ""
    assert alto_text(ALTO.format(namespace=namespace, order="").encode()) == IN_FILE_ORDER


def test_altos_own_reading_order_goes_first() -> None:
    refs = "".join(f'<ElementRef REF="{name}"/>' for name in ("b2", "c", "tl"))
    order = f"<ReadingOrder><OrderedGroup>{refs}</OrderedGroup></ReadingOrder>"
    assert (
        alto_text(ALTO.format(namespace="x", order=order).encode()) == "le & Ende.\n\nGröße und\nZei-\n\nRunning head"
    )


def test_hocr_is_read_by_lines() -> None:
    assert hocr_text(HOCR.encode()) == "Größe und\nZeile\n\nA&B"


def scan_folder(folder: Path) -> Path:
    """Write one scan for each kind of text file, one scan without a text, and texts without a scan."""
    texts = {
        "a.txt": "\ufeffA text.\r\nTwo lines.".encode(),
        "b.gt.txt": b"Ground truth.",
        "c.alto.xml": ALTO.format(namespace="", order="").encode(),
        "d.xml": ALTO.format(namespace="", order="").encode("utf-8"),
        "e.hocr": HOCR.encode(),
        "below/f.html": HOCR.encode(),
        "h.txt": b"caf\xe9",
        "alone.txt": b"no picture",
    }
    (folder / "below").mkdir(parents=True)
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    for name in ("a.png", "b.JPG", "c.jpeg", "d.tif", "e.webp", "below/f.bmp", "g.png", "h.tiff"):
        image_format = {"jpg": "JPEG", "tif": "TIFF"}.get(name.split(".")[1].lower())
        Image.new("L", (8, 8), 255).save(folder / name, format=image_format)
    return folder


def test_scans_are_read_with_the_texts_beside_them(tmp_path: Path) -> None:
    folder = scan_folder(tmp_path / "scans")
    documents = {item.source_id: item for item in read(f"images:{folder}", lang="de")}
    names = ["a.png", "alone.txt", "b.JPG", "below/f.bmp", "c.jpeg", "d.tif", "e.webp", "g.png", "h.tiff"]
    assert list(documents) == names
    without = documents.pop("g.png")
    assert isinstance(without, Unreadable) and without.reason == "document_without_text"
    undecodable = documents.pop("h.tiff")
    assert isinstance(undecodable, Unreadable) and undecodable.reason == "document_wrong_encoding"
    alone = documents.pop("alone.txt")
    assert isinstance(alone, Unreadable) and alone.reason == "file_without_picture"
    found = {}
    for name, document in documents.items():
        assert isinstance(document, Document) and document.lang == "de"
        (picture,) = document.pictures
        assert (picture.path, picture.page_index, picture.text) == (str(folder / name), None, document.text)
        found[name] = document.text
    hocr = "Größe und\nZeile\n\nA&B"
    alto = {"c.jpeg": IN_FILE_ORDER, "d.tif": IN_FILE_ORDER}
    assert found == alto | {"a.png": "A text.\nTwo lines.", "b.JPG": "Ground truth."} | dict.fromkeys(
        ["below/f.bmp", "e.webp"], hocr
    )


def test_the_digest_covers_pictures_texts_and_names(tmp_path: Path) -> None:
    folder = scan_folder(tmp_path / "scans")

    def digest() -> str:
        return source_digest(SourceSettings(source=f"images:{folder}"))

    digests = [digest(), digest()]
    assert digests[0] == digests[1]
    (folder / "alone.txt").write_bytes(b"still no picture")
    assert digest() == digests[0]
    (folder / "a.txt").write_bytes(b"Another text.")
    digests.append(digest())
    Image.new("L", (8, 8), 0).save(folder / "a.png")
    digests.append(digest())
    (folder / "a.png").rename(folder / "aa.png")
    digests.append(digest())
    assert len(set(digests)) == 4


ENTITIES = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise("abcdefghij"))
BOMB = f'<!DOCTYPE alto [<!ENTITY a "word">{ENTITIES}]>'
BAD_ALTO = {
    "entity bomb in an attribute": f'{BOMB}<alto><Layout><Page><TextBlock><TextLine><String CONTENT="&j;"/></TextLine>'
    "</TextBlock></Page></Layout></alto>",
    "entity bomb in an element": f"{BOMB}<alto><Layout><Page>&j;</Page></Layout></alto>",
    "entity of a file": '<!DOCTYPE alto [<!ENTITY x SYSTEM "file:///etc/passwd">]><alto><Layout><Page>&x;</Page>'
    "</Layout></alto>",
    "not XML": "<alto><Layout>",
    "not ALTO": "<PcGts/>",
    "two pages": "<alto><Layout><Page/><Page/></Layout></alto>",
}


@pytest.mark.parametrize("kind", BAD_ALTO)
def test_bad_alto_is_refused_by_name_or_counted(kind: str, tmp_path: Path) -> None:
    (tmp_path / "scan.xml").write_text(BAD_ALTO[kind])
    (tmp_path / "scan.png").write_bytes(b"not opened")
    with pytest.raises(UserError, match=r"scan\.xml"):
        read(f"images:{tmp_path}")
    (marker,) = read(f"images:{tmp_path}", on_unreadable="skip")
    assert isinstance(marker, Unreadable) and marker.source_id == "scan.png" and "scan.xml" in marker.problem


@pytest.mark.parametrize("source", ["images:{}/nowhere", "images:{}"])
def test_a_folder_without_scans_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images:" if "nowhere" in source else ".png"):
        read(source.format(tmp_path))


@given(
    content=st.binary(max_size=200) | st.text(alphabet="<>/&;'\"= altoPgecrlin_SrCOTEN!", max_size=200).map(str.encode)
)
@settings(max_examples=150)
def test_foreign_bytes_as_scan_texts_are_text_or_refused(content: bytes) -> None:
    for reader in (alto_text, hocr_text):
        try:
            assert isinstance(reader(content), str)
        except (ScanTextError, WrongEncodingError) as error:
            assert str(error)


@given(places=st.lists(st.tuples(st.integers(0, len(ALTO) - 1), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=100)
def test_damaged_scan_texts_are_text_or_refused(places: list[tuple[int, int]]) -> None:
    for reader, text in ((alto_text, ALTO.format(namespace="x", order="")), (hocr_text, HOCR)):
        content = bytearray(text.encode())
        for place, value in places:
            content[place % len(content)] = value
        try:
            assert isinstance(reader(bytes(content)), str)
        except (ScanTextError, WrongEncodingError) as error:
            assert str(error)


@given(content=st.binary(max_size=300), cut=st.integers(0, 900))
@settings(max_examples=100)
def test_foreign_bytes_as_pdf_are_read_or_refused(content: bytes, cut: int) -> None:
    for foreign in (content, b"%PDF-1.4\n" + content, pdf_with_text(b"Hello")[:cut] + content):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "foreign.pdf").write_bytes(foreign)
            for item in read(folder, on_unreadable="skip"):
                assert item.source_id.startswith("foreign.pdf")


FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>"
SHOWN = b"BT /F 20 Tf 100 700 Td (Twelve words that everybody sees on the page at the very top) Tj ET "
SHOWN_TEXT = "Twelve words that everybody sees on the page at the very top"
HIDDEN = {
    "white": b"BT 1 1 1 rg /F 20 Tf 100 600 Td (Hidden words) Tj ET",
    "invisible": b"BT 3 Tr /F 20 Tf 100 600 Td (Hidden words) Tj ET",
    "clip only": b"BT 7 Tr /F 20 Tf 100 600 Td (Hidden words) Tj ET",
    "clipped": b"q 0 0 50 50 re W n BT /F 20 Tf 100 600 Td (Hidden words) Tj ET Q",
    "tiny": b"BT /F 0.1 Tf 100 600 Td (Hidden words) Tj ET",
    "scaled down": b"BT /F 20 Tf 0.01 0 0 0.01 100 600 Tm (Hidden words) Tj ET",
    "covered": b"BT /F 20 Tf 100 600 Td (Hidden words) Tj ET 1 g 50 550 400 100 re f",
}


@pytest.mark.parametrize("how", HIDDEN)
def test_words_that_a_page_does_not_show_are_left_out_and_counted(how: str, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(SHOWN + HIDDEN[how], FONT, box=b"0 0 800 800"))
    marker, document = read(tmp_path / "a.pdf")
    assert isinstance(document, Document) and document.text == SHOWN_TEXT
    assert isinstance(marker, Unreadable)
    assert (marker.source_id, marker.reason, marker.count) == ("a.pdf#page=1", "word_without_ink", 2)
    assert "'Hidden', 'words'" in marker.problem


def test_white_words_on_black_are_shown(tmp_path: Path) -> None:
    dark = b"0 g 50 550 400 100 re f " + HIDDEN["white"]
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(dark, FONT))
    assert only_document(tmp_path / "a.pdf").text == "Hidden words"


def test_a_page_with_many_hidden_words_is_dropped(tmp_path: Path) -> None:
    few = b"BT /F 20 Tf 100 700 Td (Three words seen) Tj ET BT 3 Tr /F 20 Tf 100 600 Td (but five are not seen) Tj ET"
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(few, FONT))
    (marker,) = read(tmp_path / "a.pdf")
    assert isinstance(marker, Unreadable) and (marker.reason, marker.count) == ("page_text_hidden", 1)
    assert "5 of 8 words" in marker.problem


def test_the_invisible_text_over_a_scan_is_a_label_only_on_request(tmp_path: Path) -> None:
    scanned = b"0 g 100 600 120 15 re f 230 600 120 15 re f " + HIDDEN["invisible"]
    (tmp_path / "a.pdf").write_bytes(one_page_pdf(scanned + b" BT 3 Tr 100 300 Td (nothing) Tj ET", FONT))
    (marker,) = read(tmp_path / "a.pdf")
    assert isinstance(marker, Unreadable) and marker.reason == "page_text_hidden"
    marker, document = read(tmp_path / "a.pdf", keep_invisible_text=True)
    assert isinstance(document, Document) and document.text == "Hidden words"
    assert isinstance(marker, Unreadable) and (marker.reason, marker.count) == ("word_without_ink", 1)


def test_a_hyphen_that_the_font_calls_a_soft_one_stays(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_with_text(b"Part 01\\2552301\\255XXX"))  # 0xAD is the hyphen of WinAnsi
    assert only_document(tmp_path / "a.pdf").text == "Part 01-2301-XXX"


TURNED = {  # text matrices of consecutive lines, by the rotation of their letters
    0: [b"1 0 0 1 100 %d" % y for y in (700, 670, 640)],
    90: [b"0 1 -1 0 %d 100" % x for x in (100, 130, 160)],
    180: [b"-1 0 0 -1 500 %d" % y for y in (100, 130, 160)],
    270: [b"0 -1 1 0 %d 700" % x for x in (500, 470, 440)],
}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_lines_come_in_reading_order_however_page_and_letters_are_turned(
    turn: int, rotate: int, tmp_path: Path
) -> None:
    lines = zip(TURNED[turn], (b"First line", b"Second line", b"Third line"), strict=True)
    content = b" ".join(b"BT /F 20 Tf %b Tm (%b) Tj ET" % line for line in lines)
    pdf = one_page_pdf(content, FONT, box=b"0 0 600 800]/Rotate %d/CropBox[0 0 600 800" % rotate)
    (tmp_path / "a.pdf").write_bytes(pdf)
    assert only_document(tmp_path / "a.pdf").text == "First line\nSecond line\nThird line"


@pytest.mark.parametrize("name", ["s.txt", "s.hocr", "s.xml"])
def test_soft_hyphens_at_line_ends_beside_a_scan_are_hyphens(name: str, tmp_path: Path) -> None:
    contents = {
        "s.txt": "Zei\xad\nle, Mit\xadte, En\xad\nde",
        "s.hocr": "<div class='ocr_page'><span class='ocr_line'>Zei\xad</span><span class='ocr_line'>le, Mit\xadte, "
        "En\xad</span><span class='ocr_line'>de</span></div>",
        "s.xml": "<alto><Layout><Page><TextBlock><TextLine><String CONTENT='Zei\xad'/></TextLine><TextLine>"
        "<String CONTENT='le, Mit\xadte, En\xad'/></TextLine><TextLine><String CONTENT='de'/></TextLine></TextBlock>"
        "</Page></Layout></alto>",
    }
    Image.new("L", (8, 8), 255).save(tmp_path / "s.png")
    (tmp_path / name).write_text(contents[name], encoding="utf-8")
    assert only_document(f"images:{tmp_path}").text == "Zei-\nle, Mit\xadte, En-\nde"


CONTAINERS = ["ocr_header", "ocr_caption", "ocr_textfloat", "ocr_footer", "ocr_pageno", "ocr_float", "ocrx_block"]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("line", ["ocr_line", "ocrx_line"])
def test_each_line_of_hocr_comes_once_and_in_file_order(container: str, line: str) -> None:
    def element(name: str, text: str, inner: str) -> str:
        return f"<div class='{name}'><span class='{inner}'><span class='ocrx_word'>{text}</span></span></div>"

    page = element(container, "Head", line) + element("ocr_par", "Body", line) + element(container, "Foot", line)
    assert hocr_text(f"<div class='ocr_page'>{page}</div>".encode()) == "Head\n\nBody\n\nFoot"
    nested = f"<div class='ocr_page'><div class='ocr_carea'>{page}</div></div>"
    assert hocr_text(nested.encode()) == "Head\n\nBody\n\nFoot"


def test_a_line_of_alto_outside_of_a_block_is_read() -> None:
    lines = [f"<TextLine><String CONTENT='{text}'/></TextLine>" for text in ("alone", "one", "two")]
    page = f"<PrintSpace>{lines[0]}<TextBlock>{lines[1]}{lines[2]}</TextBlock></PrintSpace>"
    assert alto_text(f"<alto><Layout><Page>{page}</Page></Layout></alto>".encode()) == "alone\n\none\ntwo"
