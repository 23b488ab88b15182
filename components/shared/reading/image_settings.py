"""DeepSeek's inference parameters: the sizes at which a page is processed, and whether it is cut into tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import ProcessorMixin

from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily

_NAMES = ("base_size", "image_size", "crop_mode")


@dataclass(frozen=True)
class ImageSettings:
    """``base_size``, ``image_size`` (pixels) and ``crop_mode`` as in DeepSeek's ``infer``; None: the model's default.

    With ``crop_mode`` the model sees the whole page at ``base_size`` and, if the page is larger than one tile, tiles
    of ``image_size``; without it, it sees the page once, at ``image_size``.
    """

    base_size: int | None = None
    image_size: int | None = None
    crop_mode: bool | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ImageSettings":
        """Return the settings in an evaluation's config; one from an older version may have none."""
        return cls(**{name: config.get(name) for name in _NAMES})

    def given(self) -> list[str]:
        """Return the names of the settings that are not None."""
        return [name for name in _NAMES if getattr(self, name) is not None]


def with_image_settings(settings: ImageSettings, processor: ProcessorMixin, family: ModelFamily) -> ModelFamily:
    """Apply ``settings`` to ``processor`` and return ``family`` with the same image options.

    Both are needed, because in transformers 5.17 DeepSeek-OCR-2's processor cuts pictures by its call options and
    counts their tokens by its own attributes.

    Raises:
        UserError: the model does not have these settings, or has no queries for a view of that size.
    """
    given = settings.given()
    if not given:
        return family
    if not family.has_image_settings:
        raise UserError(
            f"the DeepSeek-OCR models are read so; a model of the family {family.name!r} has no such setting",
            where=", ".join(given),
            mend="leave it out",
        )
    images: Any = processor.image_processor
    crops = settings.crop_mode is not False
    tile = settings.image_size or (images.tile_size if crops else settings.base_size or images.tile_size)
    # Without crops, transformers 5.17 draws the view at tile_size but counts its tokens by size, so set both alike.
    view = (settings.base_size or images.size["height"]) if crops else tile
    _check_sides(processor, family, {"base_size": view, "image_size": tile})
    options = {"size": {"height": view, "width": view}, "tile_size": tile, "crop_to_patches": crops}
    for name, value in options.items():
        setattr(images, name, value)
    return replace(family, image_options={**family.image_options, **options})


def _check_sides(processor: Any, family: ModelFamily, sides: dict[str, int]) -> None:
    pixels = processor.patch_size * processor.downsample_ratio
    for name, side in sides.items():
        known = not family.view_cells or side // pixels in family.view_cells
        if not known or side % pixels:
            allowed = " or ".join(str(cells * pixels) for cells in family.view_cells) or f"a multiple of {pixels}"
            raise UserError(f"the model sees no view of {side} pixels", where=name, mend=f"give {allowed}")
