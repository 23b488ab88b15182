"""Pages as square views, as the published code prepares them: whole, and in tiles.

Modes (``base_size``, ``image_size``, ``crop_mode`` in the published README): tiny 512, small 640, base 1024 and large
1280 are one view (``crop_to_patches=False``); gundam is a view of 1024 and tiles of 640 (``crop_to_patches=True``).
"""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
    DeepseekOcr2ImageProcessorKwargs,
    DeepseekOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)


class DeepseekOcrImageProcessorKwargs(DeepseekOcr2ImageProcessorKwargs, total=False):
    """The image processor's settings, each also an option of a call."""

    stretch_up_to: int


class DeepseekOcrImageProcessor(DeepseekOcr2ImageProcessorPil):
    """Gives ``pixel_values``, ``pixel_values_local`` and ``images_spatial_crop``; see ``DeepseekOcrModel``.

    With ``crop_to_patches`` a page larger than ``tile_size`` is also cut into ``min_patches`` to ``max_patches`` tiles.
    Without it, a page is stretched to a view of at most ``stretch_up_to`` pixels, and padded to a larger one.
    """

    valid_kwargs = DeepseekOcrImageProcessorKwargs
    image_mean = [0.5, 0.5, 0.5]  # noqa: RUF012 - lists, as transformers declares these three
    image_std = [0.5, 0.5, 0.5]  # noqa: RUF012
    tile_size = 640
    max_patches = 9
    stretch_up_to = 640
    model_input_names = ["pixel_values", "images_spatial_crop"]  # noqa: RUF012

    def _preprocess(self, images: list[np.ndarray], **options: Any) -> BatchFeature:  # type: ignore[override]
        views, tiles, grids = [], [], []
        for image in images:
            page = Image.fromarray(image.transpose(1, 2, 0))
            views.append(self._pixels(self._view(page, options), options))
            grid = self._grid(page, options)
            if grid != (1, 1):
                tiles += [self._pixels(tile, options) for tile in _tiles(page, grid, options)]
            grids.append(grid)
        data = {"pixel_values": views, "images_spatial_crop": np.array(grids)}
        if tiles:
            data["pixel_values_local"] = tiles
        return BatchFeature(data=data, tensor_type=options["return_tensors"])

    def _view(self, page: Image.Image, options: dict[str, Any]) -> Image.Image:
        side = options["size"].height
        if not options["crop_to_patches"] and side <= options["stretch_up_to"]:
            return page.resize((side, side), options["resample"])
        return ImageOps.pad(page, (side, side), method=options["resample"], color=tuple(options["background_color"]))

    def _grid(self, page: Image.Image, options: dict[str, Any]) -> tuple[int, int]:
        """Return the columns and rows of the page's tiles; (1, 1) for none."""
        side = options["tile_size"]
        if not options["crop_to_patches"] or max(page.size) <= side:
            return (1, 1)
        return get_optimal_tiled_canvas(
            (page.height, page.width), (side, side), options["min_patches"], options["max_patches"]
        )

    def _pixels(self, view: Image.Image, options: dict[str, Any]) -> np.ndarray:
        pixels = np.asarray(view).transpose(2, 0, 1)
        if options["do_rescale"]:
            pixels = self.rescale(pixels, options["rescale_factor"])
        if options["do_normalize"]:
            pixels = self.normalize(pixels, options["image_mean"], options["image_std"])
        return pixels


def _tiles(page: Image.Image, grid: tuple[int, int], options: dict[str, Any]) -> list[Image.Image]:
    columns, rows = grid
    side = options["tile_size"]
    whole = page.resize((columns * side, rows * side), options["resample"])
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    return [whole.crop((left, top, left + side, top + side)) for left, top in corners]
