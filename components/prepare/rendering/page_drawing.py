"""Draws a composed page as grey levels."""

import cv2
import numpy as np

from components.prepare.rendering.composition import ComposedPage
from components.prepare.rendering.page_look import PageLook
from components.prepare.typesetting.text_engine import CannotBeSetError, PlacedLine, TextEngine

_RIM = 8
"""Pixels drawn around the page to detect ink that the page's edge would clip."""


def draw_page(page: ComposedPage, look: PageLook, engine: TextEngine) -> np.ndarray:
    """Return the page, (height, width) uint8 grey levels.

    Raises:
        CannotBeSetError: ``does_not_fit``: part of a letter would lie outside the page.
    """
    shifted = [PlacedLine(placed.line, placed.x + _RIM, placed.baseline + _RIM) for placed in page.placed]
    coverage = engine.draw(shifted, page.style, page.width + 2 * _RIM, page.height + 2 * _RIM)
    rims = (coverage[:_RIM], coverage[-_RIM:], coverage[:, :_RIM], coverage[:, -_RIM:])
    if any(bool(rim.any()) for rim in rims):
        raise CannotBeSetError("does_not_fit")
    # Coverage 0 is paper, 255 is ink, values between are mixed in proportion.
    levels = np.round(look.paper + (look.ink - look.paper) * (np.arange(256) / 255)).astype(np.uint8)
    gray = np.empty((page.height, page.width), np.uint8)
    cv2.LUT(coverage[_RIM:-_RIM, _RIM:-_RIM], levels, dst=gray)
    return gray
