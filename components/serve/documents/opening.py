"""The pages of a file: a picture, a TIFF with several pages, or a PDF."""

import io
from collections.abc import Iterator

import pypdfium2
from PIL import Image, UnidentifiedImageError

from components.shared.page_reader.pictures import PDF_SCALE, gray_page

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf")
"""of the files that are read in a folder"""
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_PDF_HEAD = 1024  # bytes: readers accept a PDF's mark anywhere in them


class DocumentError(Exception):
    """A file that is not read.

    Args:
        message: what is wrong.
        code: one word for programs.
        too_large: it is beyond a limit, and not broken.
    """

    def __init__(self, message: str, code: str, too_large: bool = False) -> None:
        super().__init__(message)
        self.message, self.code, self.too_large = message, code, too_large


def pages_of(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Yield a file's pages as they were in training: 8-bit grey as RGB, PDFs with 150 dots per inch.

    Args:
        content: the file's bytes; they say what it is, its name does not.
        max_pixels: of one page.

    Raises:
        DocumentError: it is neither a picture nor a PDF, is broken, or has a page that is too large.
    """
    try:
        yield from (
            _pdf_pages(content, max_pixels) if b"%PDF-" in content[:_PDF_HEAD] else _pictures(content, max_pixels)
        )
    except UnidentifiedImageError as error:
        raise DocumentError(f"neither a PDF nor a picture of {', '.join(_FORMATS)}", "unknown_format") from error
    except Image.DecompressionBombError as error:
        raise DocumentError("a page has too many pixels", "page_too_large", too_large=True) from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, RuntimeError) as error:
        raise DocumentError(f"the file is broken ({type(error).__name__})", "broken_file") from error


def _pictures(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        for number in range(getattr(image, "n_frames", 1) if image.format == "TIFF" else 1):
            image.seek(number)
            _check_size(image.width, image.height, max_pixels)
            yield gray_page(image).convert("RGB")


def _pdf_pages(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    document = pypdfium2.PdfDocument(content)
    try:
        for page in document:
            width, height = page.get_size()
            _check_size(int(width * PDF_SCALE) + 1, int(height * PDF_SCALE) + 1, max_pixels)
            yield page.render(scale=PDF_SCALE).to_pil().convert("L").convert("RGB")
    finally:
        document.close()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"a page has {width}x{height} pixels; at most {max_pixels:,} pixels are read"
        raise DocumentError(message, "page_too_large", too_large=True)
