"""The grids of tiles into which this project and vLLM cut the same pages."""

from collections.abc import Mapping
from typing import Any

from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import get_optimal_tiled_canvas

from components.shared.vllm.served_families import SERVED_FAMILIES


def other_tiles(vllm_class: str, images: Any, pages: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the pages that vLLM's class cuts into other tiles than ``images`` does, each with both grids.

    Args:
        vllm_class: the architecture's name in vLLM; most cut no tiles.
        images: the image processor, with the evaluation's settings.
        pages: names and sizes (width and height in pixels).
    """
    family = next((one for one in SERVED_FAMILIES.values() if one.vllm_class == vllm_class), None)
    if family is None or family.fixed_sizes is None or family.max_crops is None:
        return []
    tile = family.fixed_sizes[1]
    found = []
    for name, size in pages.items():
        theirs = _grid(size, tile, images.min_patches, family.max_crops)
        ours = _grid(size, images.tile_size, images.min_patches, images.max_patches)
        if not getattr(images, "crop_to_patches", True):
            ours = "no tiles"
        if ours != theirs:
            found.append(f"{name}: {ours} here, {theirs} there")
    return found


def _grid(size: tuple[int, int], tile: int, least: int, most: int) -> str:
    width, height = size
    if max(size) <= tile:
        return "no tiles"
    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), least, most)
    return f"{columns}x{rows}"
