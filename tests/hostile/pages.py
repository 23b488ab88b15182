"""Hostile PDFs, and texts and pictures of scans."""

import io
import zlib
from itertools import pairwise

from PIL import Image

from tests.fixtures.pdf_files import (
    one_page_pdf,
    pdf_claiming_pages,
    pdf_drawing_itself,
    pdf_of_nested_forms,
    pdf_of_objects,
    pdf_with_characters,
    pdf_with_password,
    pdf_with_picture,
    pdf_with_text,
)
from tests.hostile.hostile_input import HostileInput, fixed

_FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>"
_SHOWN = b"BT /F 20 Tf 100 700 Td (Twelve words that everybody sees on the page at the top) Tj ET "


def hidden(drawing: bytes) -> bytes:
    return one_page_pdf(_SHOWN + drawing, _FONT, box=b"0 0 800 800")


def deflated_content(size: int) -> bytes:
    """Return a PDF whose page's content is ``size`` bytes of operators, deflated to almost nothing."""
    data = zlib.compress(b"q Q " * (size // 4), 9)
    return pdf_of_objects(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R>>",
            b"<</Filter/FlateDecode/Length %d>>stream\n%b\nendstream" % (len(data), data),
        ]
    )


_LOOP = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>"]
_SCRIPT = [
    b"<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>",
    b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
    b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>",
]
PDFS = [
    HostileInput(
        "work without end",
        "itself.pdf",
        "a form that draws itself twice",
        pdf_drawing_itself,
        "dropped document_over_limits",
    ),
    HostileInput(
        "work without end",
        "nested.pdf",
        "twelve levels of forms, each drawn ten times",
        pdf_of_nested_forms,
        "dropped document_over_limits",
    ),
    HostileInput(
        "work without end",
        "claims.pdf",
        "a million pages claimed, one there",
        lambda: pdf_claiming_pages(1_000_000),
        "dropped document_over_limits",
    ),
    HostileInput(
        "work without end",
        "claims15k.pdf",
        "15,000 pages claimed, one there",
        lambda: pdf_claiming_pages(15_000),
        "dropped document_empty, dropped file_unreadable",
    ),
    HostileInput(
        "work without end",
        "operators.pdf",
        "16 MB of operators, deflated to 16 kB",
        lambda: deflated_content(16_000_000),
        "dropped document_empty",
    ),
    HostileInput(
        "work without end",
        "picture.pdf",
        "a picture that claims 60,000 x 60,000 pixels",
        lambda: pdf_with_picture(60_000, 60_000),
        "dropped document_empty",
    ),
    HostileInput(
        "work without end",
        "loop.pdf",
        "a tree of pages that holds itself",
        lambda: pdf_of_objects(_LOOP),
        "dropped file_unreadable",
    ),
    HostileInput(
        "code",
        "script.pdf",
        "JavaScript when it is opened: nothing runs it",
        lambda: pdf_of_objects(_SCRIPT),
        "dropped document_empty",
    ),
    HostileInput("lost data", "password.pdf", "a password", pdf_with_password, "dropped file_unreadable"),
    HostileInput("lost data", "cut.pdf", "cut off", lambda: pdf_with_text(b"Hello")[:60], "dropped file_unreadable"),
    HostileInput("lost data", "garbage.pdf", "no PDF", fixed(b"garbage " * 100), "dropped file_unreadable"),
    HostileInput("lost data", "empty.pdf", "no bytes", fixed(b""), "dropped file_unreadable"),
    HostileInput(
        "lost data",
        "none.pdf",
        "no pages",
        lambda: pdf_of_objects([_LOOP[0], b"<</Type/Pages/Kids[]/Count 0>>"]),
        "dropped file_unreadable",
    ),
    HostileInput(
        "labels",
        "white.pdf",
        "white words",
        lambda: hidden(b"BT 1 1 1 rg /F 20 Tf 100 600 Td (Hidden words) Tj ET"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "invisible.pdf",
        "words in render mode 3",
        lambda: hidden(b"BT 3 Tr /F 20 Tf 100 600 Td (Hidden words) Tj ET"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "clipped.pdf",
        "words outside of the clip",
        lambda: hidden(b"q 0 0 50 50 re W n BT /F 20 Tf 100 600 Td (Hidden words) Tj ET Q"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "tiny.pdf",
        "words of 0.1 points",
        lambda: hidden(b"BT /F 0.1 Tf 100 600 Td (Hidden words) Tj ET"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "covered.pdf",
        "words below a white box",
        lambda: hidden(b"BT /F 20 Tf 100 600 Td (Hidden words) Tj ET 1 g 50 550 400 100 re f"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "partly-white.pdf",
        "a word that is white from a letter on",
        lambda: hidden(b"BT /F 20 Tf 100 600 Td (Total 12) Tj 1 1 1 rg (345) Tj ET"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "ruled.pdf",
        "white words on a line",
        lambda: hidden(b"0 606 m 600 606 l S BT 1 1 1 rg /F 20 Tf 100 600 Td (Hidden words) Tj ET"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "lined-box.pdf",
        "words below a white box with a line",
        lambda: hidden(b"BT /F 20 Tf 100 600 Td (Hidden words) Tj ET 1 g 50 550 400 100 re f 0 605 m 600 605 l S"),
        "kept 1, dropped word_without_ink",
    ),
    HostileInput(
        "labels",
        "zero-width.pdf",
        "hyphens that the font calls zero-width spaces",
        lambda: pdf_with_characters([0x200B, 0x2060]),
        "dropped page_text_unmapped",
    ),
    HostileInput(
        "labels",
        "unmapped.pdf",
        "a font without characters",
        lambda: pdf_with_text(b"Hello \\001"),
        "dropped page_text_unmapped",
    ),
    HostileInput(
        "labels",
        "soft.pdf",
        "hyphens that the font calls soft ones",
        lambda: pdf_with_text(b"Part 01\\2552301\\255XXX"),
        "kept 1",
    ),
    HostileInput(
        "labels",
        "outside.pdf",
        "text outside of the page",
        lambda: pdf_with_text(b"Outside", box=b"0 0 600 400"),
        "dropped document_empty",
    ),
    HostileInput(
        "work without end",
        "huge.pdf",
        "a page of a million points",
        lambda: pdf_with_text(b"A", box=b"0 0 1000000 1000000"),
        "dropped page_text_hidden",
    ),
    HostileInput(
        "work without end", "flat.pdf", "a page without size", lambda: pdf_with_text(b"A", box=b"0 0 0 0"), "kept 1"
    ),
]

_ENTITIES = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise("abcdefghij"))
_BOMB = f'<!DOCTYPE alto [<!ENTITY a "word">{_ENTITIES}]>'
_LINE = "<alto><Layout><Page><TextBlock><TextLine><String CONTENT='{}'/></TextLine></TextBlock></Page></Layout></alto>"


def hocr(inner: str) -> str:
    return f"<div class='ocr_page'>{inner}</div>"


def hocr_of_nested_areas() -> bytes:
    """Return an hOCR page whose pieces of text each look at 240 nested areas: 35 seconds of a Xeon of 2026."""
    return hocr("<div class=a>" * 240 + "<p class=ocr_line>" + "<b>x</b> y " * 80_000).encode()


SCANS = [
    HostileInput(
        "XML",
        "attribute.xml",
        "an entity bomb in an attribute",
        fixed(_BOMB + _LINE.format("&j;")),
        "dropped file_unreadable",
    ),
    HostileInput(
        "XML",
        "element.xml",
        "an entity bomb in an element",
        fixed(f"{_BOMB}<alto><Layout><Page>&j;</Page></Layout></alto>"),
        "dropped file_unreadable",
    ),
    HostileInput(
        "XML",
        "file.xml",
        "an entity that is a file",
        fixed('<!DOCTYPE alto [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + _LINE.format("&x;")),
        "dropped file_unreadable",
    ),
    HostileInput(
        "XML",
        "remote.xml",
        "a DTD on another machine",
        fixed('<!DOCTYPE alto SYSTEM "http://127.0.0.1:9/x.dtd">' + _LINE.format("one")),
        "kept 1",
    ),
    HostileInput(
        "XML",
        "include.xml",
        "XInclude of a file: not followed",
        fixed(
            '<alto xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd" parse="text"/>'
            "<Layout><Page/></Layout></alto>"
        ),
        "dropped document_empty",
    ),
    HostileInput("XML", "deep.xml", "100,000 nested elements", fixed("<a>" * 100_000), "dropped file_unreadable"),
    HostileInput(
        "XML",
        "attributes.xml",
        "an element of 20,000 attributes",
        fixed("<alto " + " ".join(f"a{n}='1'" for n in range(20_000)) + "><Layout><Page/></Layout></alto>"),
        "dropped document_empty",
    ),
    HostileInput("XML", "cut.xml", "cut off", fixed("<alto><Layout>"), "dropped file_unreadable"),
    HostileInput("XML", "other.xml", "another format", fixed("<PcGts/>"), "dropped file_unreadable"),
    HostileInput(
        "labels",
        "two.xml",
        "two pages for one picture",
        fixed("<alto><Layout><Page/><Page/></Layout></alto>"),
        "dropped file_unreadable",
    ),
    HostileInput(
        "encodings",
        "declared.xml",
        "an encoding that it has not",
        fixed("<?xml version='1.0' encoding='utf-16'?>" + _LINE.format("one")),
        "dropped file_unreadable",
    ),
    HostileInput(
        "work without end",
        "areas.hocr",
        "240 areas around 160,000 pieces of text",
        hocr_of_nested_areas,
        "dropped document_over_limits",
    ),
    HostileInput(
        "labels",
        "script.hocr",
        "a script in a line: no part of the text",
        fixed(hocr("<span class='ocr_line'>a<script>alert(1)</script></span>")),
        "kept 1",
    ),
    HostileInput(
        "labels",
        "adjacent.hocr",
        "words without a space between them, formulas beside a line",
        fixed(
            hocr("<span class='ocr_line'><i class=ocrx_word>a</i><i class=ocrx_word>b</i></span><p class=ocr_math>1")
        ),
        "kept 1",
    ),
    HostileInput(
        "labels",
        "words.hocr",
        "words without lines",
        fixed(hocr("<span class='ocrx_word'>one</span>")),
        "dropped file_unreadable",
    ),
    HostileInput(
        "labels", "pages.hocr", "two pages for one picture", fixed(hocr("a") + hocr("b")), "dropped file_unreadable"
    ),
    HostileInput(
        "labels",
        "header.hocr",
        "lines in a header, once each",
        fixed(hocr("<div class='ocr_header'><span class='ocr_line'>Head</span></div>")),
        "kept 1",
    ),
    HostileInput(
        "encodings",
        "latin.hocr",
        "an encoding that was not told",
        fixed(hocr("Größe der Häuser").encode("latin-1")),
        "dropped document_wrong_encoding",
    ),
    HostileInput(
        "labels",
        "private.txt",
        "private-use letters of a historical print: the picture shows them",
        fixed("\ue8bf \uf161"),
        "kept 1",
    ),
    HostileInput("labels", "soft.txt", "soft hyphens at line ends become hyphens", fixed("Zei\xad\nle"), "kept 1"),
    HostileInput(
        "encodings",
        "wide.txt",
        "a text in UTF-16",
        fixed("one two".encode("utf-16")),
        "dropped document_wrong_encoding",
    ),
]


def png(size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("1", size, 1).save(stream, "PNG")
    return stream.getvalue()


def picture(image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (60, 40), 255).save(stream, image_format, **options)
    return stream.getvalue()


def animated(image_format: str) -> bytes:
    return picture(image_format, save_all=True, append_images=[Image.new("L", (60, 40), 0)] * 3)


def png_with_text_bomb() -> bytes:
    """Return a PNG with 100 MB of deflated text in a zTXt chunk."""
    data = b"comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = len(data).to_bytes(4, "big") + b"zTXt" + data + zlib.crc32(b"zTXt" + data).to_bytes(4, "big")
    whole = picture("PNG")
    return whole[:33] + chunk + whole[33:]


PICTURES = [
    HostileInput(
        "work without end",
        "bomb.png",
        "20,000 x 20,000 pixels in 50 kB",
        lambda: png((20_000, 20_000)),
        "dropped page_picture_too_large",
    ),
    HostileInput(
        "work without end",
        "claims.png",
        "a header that claims 60,000 x 60,000 pixels",
        lambda: png((60, 40)).replace(b"\0\0\0\x3c\0\0\0\x28", b"\0\0\xea\x60\0\0\xea\x60"),
        "dropped page_picture_unreadable",
    ),
    HostileInput(
        "work without end",
        "text.png",
        "100 MB of deflated text in a chunk",
        png_with_text_bomb,
        "dropped page_picture_unreadable",
    ),
    HostileInput("lost data", "cut.png", "cut off", lambda: picture("PNG")[:50], "dropped page_picture_unreadable"),
    HostileInput("lost data", "cut.jpg", "cut off", lambda: picture("JPEG")[:200], "dropped page_picture_unreadable"),
    HostileInput("lost data", "empty.webp", "no bytes", fixed(b""), "dropped page_picture_unreadable"),
    HostileInput("lost data", "text.bmp", "no picture", fixed(b"not a picture"), "dropped page_picture_unreadable"),
    HostileInput(
        "labels",
        "several.tif",
        "four pictures in one file",
        lambda: animated("TIFF"),
        "dropped page_picture_unreadable",
    ),
    HostileInput("labels", "moving.webp", "an animation", lambda: animated("WEBP"), "dropped page_picture_unreadable"),
    HostileInput(
        "code",
        "script.png",
        "PostScript under another name: its interpreter is not asked",
        fixed(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "dropped page_picture_unreadable",
    ),
    HostileInput(
        "labels",
        "turned.jpg",
        "a picture that its EXIF data turns",
        lambda: picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        "kept 1",
    ),
]
