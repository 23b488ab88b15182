"""The page sizes of the DeepSeek-OCR models' modes, by name.

DeepSeek-OCR (github.com/deepseek-ai/DeepSeek-OCR, README, "Support-Modes") sees one square view of 512, 640, 1024 or
1280 pixels in its modes Tiny, Small, Base and Large, for 64, 100, 256 or 400 vision tokens. In Gundam mode it sees n
tiles of 640 pixels and one view of 1024; n is 2 to 9 in the code published with the checkpoint, which this project
follows, and 2 to 6 in the authors' code for vLLM (MAX_CROPS in ``DeepSeek-OCR-vllm/config.py``). DeepSeek-OCR-2
(``DeepseekOcr2ImageProcessor`` and ``DeepseekOcr2Processor`` of transformers 5.17) by default sees one view of 1024
pixels for 256 vision tokens, and 2 to 6 tiles of 768 pixels for 144 each if the page is larger than a tile.

For a page that is wider or higher than a tile, both choose the grid of tiles with the closest aspect ratio and scale
the page to it. A page of exactly a grid's size is split without scaling, so the model sees the letters as drawn. The
grids below have the shape of pages: portrait or square, at most twice as high as wide. With at most 6 tiles
(``evaluate.max_crops: 6``, and vLLM), 2x4 and 3x3 are scaled down to 1x2 and 2x2.
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
    # 2x3 is the closest to A4 (1.5, A4 has 1.41), and uses all 6 tiles.
    "gundam": (2 * 640, 3 * 640),
    "gundam_1x2": (1 * 640, 2 * 640),
    "gundam_2x2": (2 * 640, 2 * 640),
    "gundam_2x4": (2 * 640, 4 * 640),
    "gundam_3x3": (3 * 640, 3 * 640),
    # OCR-2's one view: exact without tiles; with tiles the page is also enlarged to 2x2.
    "ocr2_base": (1024, 1024),
    # One tile's size: such a page gets no tiles and is enlarged to 1024.
    "ocr2_tile": (768, 768),
    "ocr2_tiles": (2 * 768, 3 * 768),
    "ocr2_tiles_1x2": (1 * 768, 2 * 768),
    "ocr2_tiles_2x2": (2 * 768, 2 * 768),
}

_LEAST, LONGEST_SIDE = 28, 16_383
"""Pixels: the smallest patch of any model, and the largest side of a WebP file."""


def page_size(name: str) -> PageSize:
    """Return the size of a mode, or of ``WIDTHxHEIGHT`` in pixels.

    Raises:
        ValueError: the name is neither a mode nor a size, or a side is below 28 or above 16,383 pixels.

    >>> page_size("gundam"), page_size("420x280")
    ((1280, 1920), (420, 280))
    """
    if name in PAGE_MODES:
        return PAGE_MODES[name]
    if written := re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", name):
        width, height = int(written[1]), int(written[2])
        if not (_LEAST <= width <= LONGEST_SIDE and _LEAST <= height <= LONGEST_SIDE):
            raise ValueError(f"the page size {name!r} is not within {_LEAST} to {LONGEST_SIDE} pixels a side")
        return width, height
    near = difflib.get_close_matches(name.lower(), PAGE_MODES, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{name!r} is not a page mode ({meant}known: {', '.join(PAGE_MODES)}, or WIDTHxHEIGHT in pixels)")
