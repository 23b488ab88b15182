"""Searchable PDFs: the pages look as before and keep their size, the text is found, and no file is replaced."""

import io
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image, ImageDraw

from components.serve.offline.searchable_pdf import SearchablePdfs
from components.shared.errors import UserError
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.pdf_files import one_page_pdf, pdf_with_password

FONT = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>>>"
OWN_PAGE = b"1 0 0 rg BT /F 20 Tf 100 700 Td (own) Tj ET 0 0 1 rg 100 300 200 50 re f"


def searchable(file: Path, content: bytes, *texts: str) -> pypdfium2.PdfDocument:
    """Return the PDF that is written for a file of these pages."""
    file.write_bytes(content)
    with SearchablePdfs([file], file.parent / "readable") as pdfs:
        return pypdfium2.PdfDocument(pdfs.write(file, texts).read_bytes())


def words(page: pypdfium2.PdfPage) -> set[str]:
    return set(page.get_textpage().get_text_bounded().split())


def seen(page: pypdfium2.PdfPage, size: tuple[int, int]) -> Image.Image:
    scale = size[0] / page.get_width()
    return page.render(scale=scale).to_pil().convert("RGB").resize(size)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of the levels, 0 to 255."""
    levels = zip(one.convert("RGB").tobytes(), other.convert("RGB").tobytes(), strict=True)
    return sum(abs(left - right) for left, right in levels) / (3 * one.width * one.height)


def test_every_script_is_found_behind_its_line(tmp_path: Path) -> None:
    page, text = drawn_page("two\nlines", 280, 84), "первая строка\n第二行 é"
    document = searchable(tmp_path / "page.png", as_file(page), text)
    read = document[0].get_textpage()
    assert read.get_text_bounded().split() == text.split()
    first, second = (read.get_charbox(read.get_text_range().index(sign)) for sign in "п第")
    assert first[1] > second[3], "each line of text is behind its line of ink"
    assert difference(seen(document[0], page.size), page) < 6


@pytest.mark.parametrize(
    ("content", "page_entries"),
    [
        (OWN_PAGE, b""),
        (OWN_PAGE, b"/Rotate 90"),
        (OWN_PAGE, b"/Rotate 180"),
        (OWN_PAGE, b"/Rotate 270/CropBox[50 100 500 750]"),
        (b"q 0.5 0 0 0.5 10 10 cm " + OWN_PAGE, b""),
    ],
    ids=["upright", "rotated", "upside-down", "rotated-and-cropped", "state-left-open"],
)
def test_a_pdf_keeps_its_pages(content: bytes, page_entries: bytes, tmp_path: Path) -> None:
    own = one_page_pdf(content, FONT).replace(b"/Type/Page/", b"/Type/Page" + page_entries + b"/")
    before = pypdfium2.PdfDocument(own)[0]
    after = searchable(tmp_path / "own.pdf", own, "прочитано\nздесь")[0]
    assert after.get_size() == before.get_size()
    assert words(after) == {"own", "прочитано", "здесь"}, "its own text stays text"
    size = (round(before.get_width()), round(before.get_height()))
    assert difference(seen(after, size), seen(before, size)) == 0
    assert (0, 0, 255) in {color for _, color in seen(after, size).getcolors(1 << 20)}
    text = after.get_textpage()
    place = text.get_text_range().index("прочитано")
    shown = [text.get_charbox(place + sign) for sign in range(len("прочитано"))]
    left, bottom, right, top = after.get_bbox()
    inside = all(left - 1 <= box[0] and box[2] <= right + 1 and bottom - 1 <= box[1] <= top + 1 for box in shown)
    assert inside, "the text stands on the page, whichever way it is turned"


def test_a_protected_pdf_is_written_too(tmp_path: Path) -> None:
    from fpdf import FPDF

    document = FPDF()
    document.add_page()
    document.set_font("helvetica", size=20)
    document.text(50, 50, "protected")
    document.set_encryption(owner_password="owner")
    found = searchable(tmp_path / "page.pdf", bytes(document.output()), "read")
    assert words(found[0]) == {"protected", "read"}


def test_a_picture_has_the_size_that_its_dpi_say(tmp_path: Path) -> None:
    page = drawn_page("size", 620, 877)
    for name, content, size in (
        ("a4.png", as_file(page, dpi=(75, 75)), (595.2, 841.9)),
        ("fax.tif", as_file(page, kind="TIFF", dpi=(204, 98)), (218.8, 644.3)),
        ("none.png", as_file(page), (297.6, 421.0)),
        ("odd.png", as_file(page, dpi=(1, 1)), (297.6, 421.0)),
    ):
        found = searchable(tmp_path / name, content, "size")[0].get_size()
        assert found == pytest.approx(size, abs=0.3), name


def test_pictures_keep_their_colours_and_stand_upright(tmp_path: Path) -> None:
    page = drawn_page("colours", 280, 90)
    ImageDraw.Draw(page).rectangle((20, 50, 260, 80), fill=(200, 30, 30))
    turned = Image.Exif()
    turned[274] = 6  # shown a quarter turn clockwise
    clear = page.convert("RGBA")
    clear.putalpha(page.convert("L").point(lambda level: 0 if level == 255 else 255))
    bilevel = page.convert("1", dither=Image.Dither.NONE)
    pages = {
        "page.png": (as_file(page), page),
        "photo.jpg": (as_file(page, kind="JPEG", quality=95), page),
        "turned.jpg": (as_file(page.rotate(90, expand=True), kind="JPEG", quality=95, exif=turned), page),
        "clear.png": (as_file(clear), page),
        "palette.png": (as_file(page.quantize(16)), page),
        "bilevel.tif": (as_file(bilevel, kind="TIFF", compression="group4"), bilevel),
        "gray.webp": (as_file(page.convert("L"), kind="WEBP", lossless=True), page.convert("L")),
    }
    for name, (content, shown) in pages.items():
        found = searchable(tmp_path / name, content, "colours")
        assert difference(seen(found[0], page.size), shown) < 4, name
    jpeg = pages["photo.jpg"][0]
    assert jpeg in (tmp_path / "readable" / "photo.pdf").read_bytes(), "a JPEG is not compressed a second time"


def test_each_page_of_a_tiff_is_one_of_the_pdf(tmp_path: Path) -> None:
    content = as_file(drawn_page("one"), drawn_page("two"), drawn_page(""), kind="TIFF")
    found = searchable(tmp_path / "pages.tiff", content, "one", "two", "")
    assert [words(page) for page in found] == [{"one"}, {"two"}, set()]


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(b"the user's own")
    with pytest.raises(UserError, match=r"report.pdf would go there, and it is there already"):
        SearchablePdfs([tmp_path / "report.pdf"], tmp_path)
    with pytest.raises(UserError, match=r"a.png and .*a.tif would both go there"):
        SearchablePdfs([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.tif"], tmp_path / "new")
    with pytest.raises(UserError, match="it is a file, not a folder"):
        SearchablePdfs([tmp_path / "a.png"], tmp_path / "report.pdf")
    with pytest.raises(UserError, match="cannot be made"):
        SearchablePdfs([tmp_path / "a.png"], tmp_path / "report.pdf" / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["report.pdf"]


def test_a_pdf_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    file, gone = tmp_path / "locked.pdf", tmp_path / "gone.png"
    file.write_bytes(pdf_with_password())
    with SearchablePdfs([file, gone], tmp_path / "readable") as pdfs:
        for name in (file, gone):
            with pytest.raises(UserError, match=rf"{name.name}: its PDF is not written"):
                pdfs.write(name, ["text"])
        page = io.BytesIO(as_file(drawn_page("next")))
        gone.write_bytes(page.getvalue())
        assert pdfs.write(gone, ["text"]).exists()
    assert [file.name for file in (tmp_path / "readable").iterdir()] == ["gone.pdf"]
