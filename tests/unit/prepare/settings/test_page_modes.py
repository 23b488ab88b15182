"""Page modes compared with the models' own preprocessing of pages of these sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
    DeepseekOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from components.prepare.settings.page_modes import PAGE_MODES, page_size

TILED = {name: size for name, size in PAGE_MODES.items() if name.startswith(("gundam", "ocr2_tiles"))}


@pytest.mark.parametrize("name", TILED)
def test_a_page_of_a_tiled_mode_is_cut_into_tiles_without_being_scaled(name: str) -> None:
    # DeepSeek-OCR's code chooses its grid by the same rule as OCR-2's, with other numbers.
    tile, most = (640, 9) if name.startswith("gundam") else (768, 6)
    width, height = TILED[name]
    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), 2, most)
    assert (columns * tile, rows * tile) == (width, height)
    assert 1 <= height / width <= 2, "looks like a page"


def test_ocr2_s_processor_has_the_sizes_that_the_modes_are_made_of() -> None:
    processor = DeepseekOcr2ImageProcessorPil()
    assert (processor.size["width"], processor.size["height"]) == page_size("ocr2_base")
    assert (processor.tile_size, processor.tile_size) == page_size("ocr2_tile")
    assert (processor.min_patches, processor.max_patches) == (2, 6)


@given(st.integers(28, 16_383), st.integers(28, 16_383))
def test_sizes_can_be_written_in_pixels(width: int, height: int) -> None:
    assert page_size(f"{width}x{height}") == (width, height)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gundan", "did you mean 'gundam'"),
        ("Base", "did you mean 'base'"),
        ("poster", "known: tiny, small, base"),
        ("1024", "or WIDTHxHEIGHT"),
        ("10x1024", "not within 28 to 16383"),
        ("1024x99999", "not within 28 to 16383"),
        ("-5x40", "is not a page mode"),
        ("١٢٨x١٢٨", "is not a page mode"),
        ("", "is not a page mode"),
    ],
)
def test_other_names_are_refused_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page_size(name)
