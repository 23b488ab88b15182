"""The sizes at which the DeepSeek-OCR models see pages, by the names that they go by.

DeepSeek-OCR (github.com/deepseek-ai/DeepSeek-OCR, README, "Support-Modes") sees one view of 512, 640, 1024 or 1280
pixels square in its modes Tiny, Small, Base and Large, for 64, 100, 256 or 400 vision tokens. In Gundam mode it sees n
tiles of 640 pixels beside one view of 1024; n is 2 to 6 by default and 9 at most (MIN_CROPS and MAX_CROPS in its
``DeepSeek-OCR-vllm/config.py``). DeepSeek-OCR-2 (``DeepseekOcr2ImageProcessor`` and ``DeepseekOcr2Processor`` of
transformers 5.17) sees by default one view of 1024 pixels for 256 vision tokens, with 2 to 6 tiles of 768 for 144 each
where the page is larger than a tile.

Both choose, for a page that is wider or higher than a tile, the grid of tiles whose shape is nearest the page's, and
scale the page to it. A page that has a grid's very size is cut without being scaled, so that the letters which the
model sees are those which were drawn. The grids below are those that look like pages: upright or square, at most
twice as high as wide. With DeepSeek-OCR's default of at most 6 tiles, 2x4 and 3x3 are scaled down to 1x2 and 2x2.
"""

import difflib
import re

PageSize = tuple[int, int]
"""Width and height in pixels."""

PAGE_MODES: dict[str, PageSize] = {
    "tiny": (512, 512),
    "small": (640, 640),
    "base": (1024, 1024),
    "large": (1280, 1280),
    # 2x3 is the nearest to a sheet of A4 (1.5 against 1.41), and the most that 6 tiles hold.
    "gundam": (2 * 640, 3 * 640),
    "gundam_1x2": (1 * 640, 2 * 640),
    "gundam_2x2": (2 * 640, 2 * 640),
    "gundam_2x4": (2 * 640, 4 * 640),
    "gundam_3x3": (3 * 640, 3 * 640),
    # The one view of OCR-2: exact without tiles; with them the page is enlarged to 2x2 beside it.
    "ocr2_base": (1024, 1024),
    # One tile's size: no larger than a tile, a page gets none, and is seen enlarged to 1024.
    "ocr2_tile": (768, 768),
    "ocr2_tiles": (2 * 768, 3 * 768),
    "ocr2_tiles_1x2": (1 * 768, 2 * 768),
    "ocr2_tiles_2x2": (2 * 768, 2 * 768),
}

_LEAST, _MOST = 28, 16_383
"""Pixels: the smallest patch that a model knows, and the largest side of a WebP file."""


def page_size(name: str) -> PageSize:
    """Return the size of a mode, or the one that is written as ``WIDTHxHEIGHT`` in pixels.

    Raises:
        ValueError: the name is no mode's and no size, or a side is below 28 or above 16,383 pixels.

    >>> page_size("gundam"), page_size("420x280")
    ((1280, 1920), (420, 280))
    """
    if name in PAGE_MODES:
        return PAGE_MODES[name]
    if written := re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", name):
        width, height = int(written[1]), int(written[2])
        if not (_LEAST <= width <= _MOST and _LEAST <= height <= _MOST):
            raise ValueError(f"the page size {name!r} is outside of {_LEAST} to {_MOST} pixels a side")
        return width, height
    near = difflib.get_close_matches(name.lower(), PAGE_MODES, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{name!r} is no page mode ({meant}known: {', '.join(PAGE_MODES)}, or WIDTHxHEIGHT in pixels)")
