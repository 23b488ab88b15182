"""Draws a PDF's page for a look at it: as a whole, in part, or without some of its objects."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import c_int
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

_UNIT, _STEPS = 1000, 16  # PDFium gives whole pixels: measure the transformation in sixteenths, over 1000 points
_MOST_PIXELS = 179_000_000
"""Pillow refuses larger pictures, so a page with one is dropped later."""

Object = Any
"""A pointer to a page object of PDFium."""
Pixels = NDArray[np.uint8]


class PageDrawing:
    """A page in pixels.

    Attributes:
        size: columns and rows.
        objects: the objects of the page, and those in its forms instead of the forms; none if it cannot be drawn.
        texts: those of them that are texts.
        drawable: false if the page has no size, or holds a picture that is too large to be decoded.
    """

    def __init__(self, page: pypdfium2.PdfPage, most_scale: float, longest_side: int) -> None:
        self._page = page
        width, height = page.get_size()
        scale = min(most_scale, longest_side / max(width, height, 1))
        self.size = max(1, round(width * scale)), max(1, round(height * scale))
        self.drawable = min(width, height) > 0 and not self._holds_too_large_a_picture()
        self.objects = list(_leaves(page)) if self.drawable else []
        self.texts = [one for one in self.objects if pdfium.FPDFPageObj_GetType(one) == pdfium.FPDF_PAGEOBJ_TEXT]

    def gray(self) -> Pixels:
        """Return the page as (H, W) gray."""
        columns, rows = self.size
        bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, pdfium.FPDFBitmap_Gray)
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, columns, rows)
        pdfium.FPDF_RenderPageBitmap(bitmap, self._page, 0, 0, columns, rows, 0, pdfium.FPDF_GRAYSCALE)
        return np.array(bitmap.to_numpy()).reshape(rows, columns)

    def view(self, start: NDArray[np.float64], end: NDArray[np.float64], scale: float) -> Callable[[int], Pixels]:
        """Return a function that draws the part of the page between two corners, as (H, W, 3), on a gray level."""
        columns, rows = (max(1, int(side)) for side in np.ceil((end - start) * scale))
        x, y = (-round(float(value) * scale) for value in start)
        across, down = (max(1, round(side * scale)) for side in self.size)

        def drawn(background: int) -> Pixels:
            bitmap = pypdfium2.PdfBitmap.new_native(columns, rows, pdfium.FPDFBitmap_BGR)
            bitmap.fill_rect((background, background, background, 255), 0, 0, columns, rows)
            pdfium.FPDF_RenderPageBitmap(bitmap, self._page, x, y, across, down, 0, 0)
            return np.array(bitmap.to_numpy())

        return drawn

    def in_pixels(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        origin, right, up = (np.array(self._corner(x, y)) for x, y in ((0, 0), (_UNIT, 0), (0, _UNIT)))
        turn = np.stack([right - origin, up - origin]) / _UNIT
        one, other = origin + boxes[:, :2] @ turn, origin + boxes[:, 2:] @ turn
        return np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=1)

    def _corner(self, across: float, up: float) -> tuple[float, float]:
        """Return where a point of the page is in the picture, in pixels from the left and the top."""
        x, y = c_int(), c_int()
        columns, rows = (side * _STEPS for side in self.size)
        pdfium.FPDF_PageToDevice(self._page, 0, 0, columns, rows, 0, across, up, x, y)
        return x.value / _STEPS, y.value / _STEPS

    def _holds_too_large_a_picture(self) -> bool:
        for picture in self._page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
            columns, rows = picture.get_px_size()
            if columns * rows > _MOST_PIXELS:
                return True
        return False


@contextmanager
def without(objects: Iterable[Object]) -> Iterator[None]:
    """Draw the page without these objects."""
    changed = [one for one in objects if pdfium.FPDFPageObj_SetIsActive(one, 0)]
    try:
        yield
    finally:
        for one in changed:
            pdfium.FPDFPageObj_SetIsActive(one, 1)


def _leaves(page: pypdfium2.PdfPage) -> Iterator[Object]:
    """Yield the objects of a page, and those in its forms instead of the forms."""
    objects = [pdfium.FPDFPage_GetObject(page, number) for number in range(pdfium.FPDFPage_CountObjects(page))]
    while objects:
        one = objects.pop()
        if pdfium.FPDFPageObj_GetType(one) == pdfium.FPDF_PAGEOBJ_FORM:
            inside = range(max(0, pdfium.FPDFFormObj_CountObjects(one)))
            objects.extend(pdfium.FPDFFormObj_GetObject(one, number) for number in inside)
        else:
            yield one
