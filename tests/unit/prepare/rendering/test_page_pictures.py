"""Page pictures from PDFs and scans: size, rotation, conversion to gray, and what is refused."""

import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.prepare.documents.document import PagePicture
from components.prepare.rendering.page_pictures import PageError, load_page
from components.shared.page_reader.pictures import opened_page
from tests.fixtures.pdf_files import one_page_pdf, pdf_with_picture, pdf_with_text, write_pdf


def scan(path: Path) -> PagePicture:
    return PagePicture(str(path), page_index=None, text="")


def pdf_page(path: Path, index: int = 0) -> PagePicture:
    return PagePicture(str(path), page_index=index, text="")


def saved(image: Image.Image, path: Path, **options: object) -> PagePicture:
    image.save(path, **options)
    return scan(path)


def loaded(picture: PagePicture) -> np.ndarray:
    """Return an unscaled scan, after checking that the packaged script loads the same pixels."""
    page = load_page(picture, None)
    assert np.array_equal(np.asarray(opened_page(picture.path))[..., 1], page)
    return page


def ink_box(page: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the pixels darker than 128."""
    rows, columns = np.nonzero(page < 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def half_black(width: int = 60, height: int = 40) -> Image.Image:
    """A picture whose left half is black."""
    image = Image.new("L", (width, height), 255)
    image.paste(0, (0, 0, width // 2, height))
    return image


MODES = {
    "png": ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"],
    "jpg": ["1", "L", "RGB", "CMYK"],
    "webp": ["1", "L", "P", "RGB", "RGBA", "LA"],
    "tif": ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"],
    "bmp": ["1", "L", "P", "RGB", "RGBA"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_mode_of_every_format_is_the_same_gray(suffix: str, mode: str, tmp_path: Path) -> None:
    image = half_black() if mode != "I;16" else Image.fromarray(np.asarray(half_black()).astype(np.uint16) * 257)
    page = loaded(saved(image.convert(mode), tmp_path / f"page.{suffix}"))
    assert page.dtype == np.uint8 and page.shape == (40, 60) and page.flags.c_contiguous and page.flags.writeable
    assert np.abs(page[:, :26].astype(int)).max() <= 3 and np.abs(page[:, 34:].astype(int) - 255).max() <= 3


def test_sixteen_bits_keep_their_middle_and_their_white(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert (loaded(saved(Image.fromarray(ramp), tmp_path / "a.png")).ravel() == np.arange(256)).all()
    plain = saved(Image.fromarray(ramp), tmp_path / "a.tif")
    assert (loaded(plain).ravel() == np.arange(256)).all()
    inverted = saved(Image.fromarray(ramp), tmp_path / "b.tif", tiffinfo={262: 0})
    assert (loaded(inverted).ravel() == np.arange(256)[::-1]).all()


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 5, 10))
    page = loaded(saved(clear, tmp_path / "a.png"))
    assert (page[:, :5] == 0).all() and (page[:, 5:] == 255).all()
    palette = Image.new("P", (20, 10), 0)
    palette.putpalette([0, 0, 0, 10, 10, 10])
    assert (loaded(saved(palette, tmp_path / "b.png", transparency=0)) == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "lzw.tif"])
@pytest.mark.parametrize(("orientation", "shape", "dark"), [(3, (40, 60), (30, 0)), (6, (60, 40), (0, 0))])
def test_a_scan_is_turned_as_its_exif_says(
    suffix: str, orientation: int, shape: tuple[int, int], dark: tuple[int, int], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    compression = {"compression": "tiff_lzw"} if suffix.startswith("lzw") else {}
    page = loaded(saved(half_black(), tmp_path / f"a.{suffix}", exif=exif, **compression))
    assert page.shape == shape
    assert ink_box(page)[:2] == dark
    smaller = load_page(scan(tmp_path / f"a.{suffix}"), 20)  # a JPEG is decoded in part only
    assert max(smaller.shape) == 20 and abs(int((smaller < 128).sum()) - 130) < 30


@pytest.mark.parametrize(("edge", "size"), [(50, (50, 38)), (199, (199, 149)), (200, (200, 150)), (900, (200, 150))])
def test_a_scan_is_made_smaller_and_never_larger(edge: int, size: tuple[int, int], tmp_path: Path) -> None:
    for width, height in (size, size[::-1]):
        whole = (200, 150) if width > height else (150, 200)
        page = load_page(saved(Image.new("L", whole, 0), tmp_path / "black.png"), edge)
        assert page.shape == (height, width) and (page == 0).all(), "the whole page, nothing around it"


def test_a_page_of_a_pdf_is_drawn_at_the_wanted_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    square = b"0 g 100 100 400 600 re f"  # a page of 600 x 800 points with a margin of 100
    path.write_bytes(one_page_pdf(square, b""))
    for edge, box in ((400, (50, 50, 250, 350)), (1600, (200, 200, 1000, 1400))):
        page = load_page(pdf_page(path), edge)
        assert page.shape == (edge, 3 * edge // 4)
        assert np.abs(np.subtract(ink_box(page), box)).max() <= 1
    assert load_page(pdf_page(path), None).shape == (round(800 / 72 * 150), round(600 / 72 * 150))


def test_every_page_of_a_pdf_is_its_own(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["short", "a much longer line of text", ""])
    other = write_pdf(tmp_path / "b.pdf", ["", "short"])
    pages = [load_page(pdf_page(path, index), 560) for index in (0, 1, 2)]
    assert ink_box(pages[0])[2] < ink_box(pages[1])[2] and (pages[2] == 255).all()
    assert (load_page(pdf_page(other, 0), 560) == pages[2]).all()
    assert (load_page(pdf_page(other, 1), 560) == pages[0]).all()
    assert (load_page(pdf_page(path, 0), 560) == pages[0]).all()


def test_what_is_not_in_a_pdfs_text_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_with_text(b"Hello"))
    page = load_page(pdf_page(path), 400)
    note = b"/Annots[<</Type/Annot/Subtype/Square/Rect[100 100 300 300]/C[0 0 0]/IC[0 0 0]/F 4>>]/MediaBox"
    path = tmp_path / "b.pdf"
    path.write_bytes(pdf_with_text(b"Hello").replace(b"/MediaBox", note))
    assert (load_page(pdf_page(path), 400) == page).all()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims that size; it has one short row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def several_pictures(path: Path) -> None:
    half_black().save(path, format="TIFF", save_all=True, append_images=[half_black()])


BAD_PICTURES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "image bomb": ("p.png", "picture_too_large", lambda path: path.write_bytes(png_of(60_000, 60_000))),
    "above max_pixels": ("p.png", "picture_too_large", lambda path: path.write_bytes(png_of(9_000, 9_000))),
    "bomb in a PDF": ("p.pdf", "picture_too_large", lambda path: path.write_bytes(pdf_with_picture(60_000, 60_000))),
    "not a picture": ("p.png", "picture_unreadable", lambda path: path.write_bytes(b"picture")),
    "PostScript": ("p.png", "picture_unreadable", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
    "empty": ("p.jpg", "picture_unreadable", lambda path: path.write_bytes(b"")),
    "cut off": ("p.png", "picture_unreadable", lambda path: path.write_bytes(png_of(3, 3)[:45])),
    "too few rows": ("p.png", "picture_unreadable", lambda path: path.write_bytes(png_of(3000, 3000))),
    "several pictures": ("p.tif", "picture_unreadable", several_pictures),
    "floats": ("p.tif", "picture_unreadable", lambda path: Image.new("F", (9, 9), 0.5).save(path)),
    "missing": ("p.png", "picture_unreadable", lambda path: None),
    "not a PDF": ("p.pdf", "picture_unreadable", lambda path: path.write_bytes(b"%PDF-1.4")),
    "no such page": ("p.pdf", "picture_unreadable", lambda path: write_pdf(path.with_name("p.pdf"), [])),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    name, reason, write = BAD_PICTURES[kind]
    write(tmp_path / name)
    with pytest.raises(PageError) as caught:
        load_page(PagePicture(str(tmp_path / name), 0 if name.endswith("pdf") else None, ""), 512)
    assert caught.value.reason == reason and name in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))  # it crosses processes
    assert (again.reason, again.problem) == (reason, caught.value.problem)


def test_max_pixels_bounds_the_file_and_the_result(tmp_path: Path) -> None:
    picture = saved(half_black(), tmp_path / "a.png")
    assert load_page(picture, None, max_pixels=2400).shape == (40, 60)
    with pytest.raises(PageError):
        load_page(picture, None, max_pixels=2399)
    (tmp_path / "square.pdf").write_bytes(one_page_pdf(b"", b"", box=b"0 0 200 200"))
    with pytest.raises(PageError) as caught:
        load_page(pdf_page(tmp_path / "square.pdf"), 512, max_pixels=20_000)
    assert caught.value.reason == "picture_too_large"


@given(content=st.binary(max_size=200), suffix=st.sampled_from(["png", "jpg", "webp", "tif", "bmp", "pdf"]))
@settings(max_examples=100)
def test_foreign_bytes_are_a_page_or_refused(content: bytes, suffix: str) -> None:
    _page_or_refused(content, suffix)


@given(
    suffix=st.sampled_from(["png", "jpg", "webp", "tif", "bmp", "pdf"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0.2, 1),
)
@settings(max_examples=150)
def test_damaged_files_are_a_page_or_refused(suffix: str, changes: list[tuple[float, int]], cut: float) -> None:
    content = bytearray(WHOLE_FILES[suffix])
    for place, value in changes:
        content[int(place * len(content))] = value
    _page_or_refused(bytes(content[: int(cut * len(content))]), suffix)


def _page_or_refused(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"page.{suffix}"
        path.write_bytes(content)
        try:
            page = load_page(PagePicture(str(path), 0 if suffix == "pdf" else None, ""), 40)
        except PageError as error:
            assert error.reason in ("picture_too_large", "picture_unreadable")
        else:
            assert max(page.shape) <= 40 and page.dtype == np.uint8


def _whole_files() -> dict[str, bytes]:
    files = {"pdf": pdf_with_text(b"Hello")}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("png", "jpg", "webp", "tif", "bmp"):
            half_black().convert("RGB").save(Path(folder) / f"a.{suffix}")
            files[suffix] = (Path(folder) / f"a.{suffix}").read_bytes()
    return files


WHOLE_FILES = _whole_files()
