"""Existing pages as pictures: pages of PDFs, and scans."""

import warnings
from functools import lru_cache

import numpy as np
import pypdfium2
import pypdfium2.raw
from PIL import Image

from components.prepare.documents.document import PagePicture
from components.prepare.documents.drop_reasons import PictureProblem
from components.prepare.sources.pages.pdf import open_pdf
from components.shared.page_reader.pictures import FORMATS, gray_page

MAX_PIXELS = 64_000_000
"""An A4 page at 600 dpi has 35 million pixels."""

_PDF_DOTS_PER_POINT = 150 / 72  # used if no size is requested
_WHITE = 255


class PageError(Exception):
    """A picture that cannot be used as a page.

    Attributes:
        reason: why, e.g. ``picture_too_large``.
        problem: what is wrong, and in which file.
    """

    def __init__(self, reason: PictureProblem, problem: str) -> None:
        self.reason = reason
        self.problem = problem
        super().__init__(problem)

    def __reduce__(self) -> tuple[type["PageError"], tuple[PictureProblem, str]]:
        return type(self), (self.reason, self.problem)


def load_page(picture: PagePicture, longest_edge: int | None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return a page picture as (H, W) uint8 grey levels, 255 white, contiguous and writable.

    A PDF page is rendered so that its longer side has ``longest_edge`` pixels, without annotations and form entries,
    which are not in its text. A scan is rotated as its EXIF data says, made smaller if its longer side has more pixels,
    and never enlarged, which would only blur it. With None, PDF pages are drawn at 150 dpi and scans keep their size.
    The same file gives the same pixels.

    Raises:
        PageError: the file is broken or has several pages; or it, a picture on the PDF's page, or the result has more
            than ``max_pixels``. Sizes are read from headers before anything is decoded. Pillow itself rejects
            more than 179 million pixels.
    """
    if picture.page_index is None:
        return _scan(picture.path, longest_edge, max_pixels)
    return _pdf_page(picture.path, picture.page_index, longest_edge, max_pixels)


def _pdf_page(path: str, index: int, longest_edge: int | None, max_pixels: int) -> np.ndarray:
    try:
        page = _opened_pdf(path)[index]
        for picture in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]):
            columns, rows = picture.get_px_size()
            _check_size(columns, rows, max_pixels, path)
        natural = page.get_size()
        if min(natural) <= 0:
            raise PageError("picture_unreadable", f"{path}, page {index + 1}: the page has no size")
        columns, rows = _scaled(natural, longest_edge / max(natural) if longest_edge else _PDF_DOTS_PER_POINT)
        _check_size(columns, rows, max_pixels, path)
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, pypdfium2.raw.FPDFBitmap_Gray)
        bitmap.fill_rect((_WHITE, _WHITE, _WHITE, _WHITE), 0, 0, columns, rows)
        pypdfium2.raw.FPDF_RenderPageBitmap(bitmap, page, 0, 0, columns, rows, 0, pypdfium2.raw.FPDF_GRAYSCALE)
    except (pypdfium2.PdfiumError, OSError, IndexError) as error:
        raise PageError("picture_unreadable", f"{path}, page {index + 1}: {error}") from error
    return np.array(bitmap.to_numpy()).reshape(rows, columns)


@lru_cache(maxsize=1)
def _opened_pdf(path: str) -> pypdfium2.PdfDocument:
    """Keep the last file open: a worker draws a document's pages one after the other."""
    return open_pdf(path)


def _scan(path: str, longest_edge: int | None, max_pixels: int) -> np.ndarray:
    try:
        # A stream and not the path: Pillow 13 maps raw TIFFs into memory with the sides of a turned page swapped.
        with warnings.catch_warnings(), open(path, "rb") as stream:  # noqa: PTH123
            warnings.simplefilter("ignore")  # about size, which is checked here, and unusual tags
            with Image.open(stream, formats=FORMATS) as image:
                _check_size(image.width, image.height, max_pixels, path)
                if image.format in ("TIFF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
                    raise PageError("picture_unreadable", f"{path}: the file holds several pictures")
                if longest_edge and max(image.size) > longest_edge:
                    # Decode a JPEG at 1/2, 1/4 or 1/8 if that is large enough.
                    scale = longest_edge / max(image.size)
                    image.draft("L", _scaled(image.size, scale))
                gray = gray_page(image)
    except (PageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PageError("picture_too_large", f"{path}: {error}") from error
    except Exception as error:  # Pillow's decoders raise almost any exception for damaged files
        raise PageError("picture_unreadable", f"{path}: {error}") from error
    columns, rows = _scaled(gray.size, min(1.0, longest_edge / max(gray.size)) if longest_edge else 1.0)
    if (columns, rows) != gray.size:
        # First average down to three times the final size: several times faster, no visible difference.
        gray = gray.resize((columns, rows), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(gray)


def _scaled(size: tuple[float, float], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _check_size(columns: int, rows: int, max_pixels: int, path: str) -> None:
    if columns * rows > max_pixels:
        problem = f"{path}: {columns} x {rows} pixels, at most {max_pixels} are allowed"
        raise PageError("picture_too_large", problem)
