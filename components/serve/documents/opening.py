"""The pages of a file: a picture, a TIFF with several pages, or a PDF.

The file is a stranger's, so this runs in a reading child (``components.shared.foreign_files``).
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import Image, UnidentifiedImageError

from components.shared.page_reader.pictures import FORMATS, PDF_SCALE, gray_page

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf")
"""of the files that are read in a folder"""
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

    def __reduce__(self) -> tuple[type["DocumentError"], tuple[str, str, bool]]:
        return type(self), (self.message, self.code, self.too_large)


@dataclass(frozen=True)
class PageFile:
    """A file to open.

    Attributes:
        content: its bytes, or where it is; the bytes say what it is, its name does not.
        max_pixels: of one page.
        max_pages: the pages behind so many are left; None: all are read.
        max_total_pixels: of all pages together; None: no limit.
    """

    content: bytes | Path
    max_pixels: int
    max_pages: int | None = None
    max_total_pixels: int | None = None


def read_pages(_: None, file: PageFile) -> Iterator[np.ndarray]:
    """Yield a file's pages as they were in training: (H, W) uint8 grey levels, PDFs with 150 dots per inch.

    Raises:
        DocumentError: it is neither a picture nor a PDF, is broken, or has a page that is too large.
    """
    warnings.simplefilter("ignore")  # Pillow's, about size, which is checked here, and unusual tags
    try:
        content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
        pages = _pdf_pages if is_pdf(content) else _pictures
        taken = 0
        for page in islice(pages(content, file.max_pixels), file.max_pages):
            taken += page.width * page.height
            if file.max_total_pixels is not None and taken > file.max_total_pixels:
                raise DocumentError("its pages together have too many pixels", "too_many_pixels", too_large=True)
            yield np.asarray(page)
    except (DocumentError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DocumentError(f"neither a PDF nor a picture of {', '.join(FORMATS)}", "unknown_format") from error
    except Image.DecompressionBombError as error:
        raise DocumentError("a page has too many pixels", "page_too_large", too_large=True) from error
    except Exception as error:  # Pillow's decoders raise almost any exception for damaged files
        raise DocumentError(f"the file is broken ({type(error).__name__})", "broken_file") from error


def is_pdf(content: bytes) -> bool:
    """Return whether a file is a PDF; others are taken for pictures."""
    return b"%PDF-" in content[:_PDF_HEAD]


def _pictures(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    for frame in frames(content):
        _check_size(frame.width, frame.height, max_pixels)
        yield gray_page(frame)


def frames(content: bytes) -> Iterator[Image.Image]:
    """Yield the pages of a picture file as they are, not decoded yet; each is valid until the next is asked for."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        for number in count() if image.format == "TIFF" else (0,):
            try:
                image.seek(number)
            except EOFError:  # not n_frames: it walks through all of them
                return
            yield image


def _pdf_pages(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    document = pypdfium2.PdfDocument(content)
    try:
        for page in document:
            width, height = page.get_size()
            _check_size(int(width * PDF_SCALE) + 1, int(height * PDF_SCALE) + 1, max_pixels)
            yield page.render(scale=PDF_SCALE).to_pil().convert("L")
    finally:
        document.close()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"a page has {width}x{height} pixels; at most {max_pixels:,} pixels are read"
        raise DocumentError(message, "page_too_large", too_large=True)
