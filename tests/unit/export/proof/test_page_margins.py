"""The square views that vLLM and transformers make of a page."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from components.export.proof.page_margins import equally_centred

SIDE = 1024


def page(width: int, height: int) -> Image.Image:
    drawn = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(drawn).text((20, 20), f"Hello boat\n{width} x {height}", fill="black", font_size=40)
    return drawn


def views_are_equal(shown: Image.Image) -> bool:
    """Compare transformers' view with the one of vLLM's processor (transformers_utils/processors/deepseek_ocr.py)."""
    processor = DeepseekOcr2ImageProcessorPil()
    ours = processor(shown, return_tensors="np")["pixel_values"][0]
    padded = ImageOps.pad(shown, (SIDE, SIDE), color=tuple(int(mean * 255) for mean in processor.image_mean))
    theirs = (np.asarray(padded, np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return bool(np.abs(ours - theirs).max() < 1e-2)


@pytest.mark.parametrize(
    ("size", "alike"),
    # The margins are 171, 171, 256, 0, 449, 597, 101 and 87 pixels.
    [
        *[((500, 600), False), ((600, 500), False), ((480, 640), True), ((640, 640), True)],
        *[((575, 1024), True), ((427, 1024), True), ((1846, 2048), True), ((937, 1024), False)],
    ],
)
def test_pages_are_extended_where_the_views_differ(size: tuple[int, int], alike: bool) -> None:
    assert views_are_equal(page(*size)) == alike
    extended = equally_centred(page(*size), SIDE)
    assert views_are_equal(extended)
    assert (extended.size == size) == alike
    assert max(extended.size) == max(size) and min(extended.size) - min(size) <= 2
