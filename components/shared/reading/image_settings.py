"""How pages become pixels: DeepSeek's inference parameters, and the library that scales the pictures of any family."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import ProcessorMixin
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily
from components.shared.programs.reading_settings import IMAGE_SETTINGS


@dataclass(frozen=True)
class ImageSettings:
    """``base_size``, ``image_size`` (pixels) and ``crop_mode`` as in DeepSeek's ``infer``; None: the model's default.

    With ``crop_mode`` the model sees the whole page at ``base_size`` and, if the page is larger than one tile, at most
    ``max_crops`` tiles of ``image_size``; without it, it sees the page once, at ``image_size``. ``image_backend`` is
    what scales the pictures, ``torchvision`` or ``pil``, which round differently; None: torchvision where installed.
    """

    base_size: int | None = None
    image_size: int | None = None
    crop_mode: bool | None = None
    max_crops: int | None = None
    image_backend: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ImageSettings":
        """Return the settings in an evaluation's config; one from an older version may have none."""
        return cls(**{name: config.get(name) for name in (*IMAGE_SETTINGS, "image_backend")})

    def given(self) -> list[str]:
        """Return the names of DeepSeek's settings that are not None."""
        return [name for name in IMAGE_SETTINGS if getattr(self, name) is not None]


def with_image_settings(settings: ImageSettings, processor: ProcessorMixin, family: ModelFamily) -> ModelFamily:
    """Apply ``settings`` to ``processor`` and return ``family`` with the same image options.

    Both are needed, because in transformers 5.17 DeepSeek-OCR-2's processor cuts pictures by its call options and
    counts their tokens by its own attributes.

    Raises:
        UserError: the model does not have these settings, has no queries for a view of that size, or the library that
            scales the pictures is not installed.
    """
    _use_backend(settings.image_backend, processor)
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
    if not crops and settings.max_crops is not None:
        raise UserError("without crop_mode there are no tiles", where="max_crops", mend="leave one of the two out")
    tile = settings.image_size or (images.tile_size if crops else settings.base_size or images.tile_size)
    # Without crops, transformers 5.17 draws the view at tile_size but counts its tokens by size, so set both alike.
    view = (settings.base_size or images.size["height"]) if crops else tile
    _check_sides(processor, family, {"base_size": view, "image_size": tile})
    options = {"size": {"height": view, "width": view}, "tile_size": tile, "crop_to_patches": crops}
    if settings.max_crops is not None:
        options["max_patches"] = settings.max_crops
    for name, value in options.items():
        setattr(images, name, value)
    return replace(family, image_options={**family.image_options, **options})


def backend_of(processor: Any) -> str | None:
    """Return what scales the pictures, ``torchvision`` or ``pil``; None for a class that does not say it."""
    return getattr(getattr(processor, "image_processor", None), "backend", None)


def _use_backend(backend: str | None, processor: Any) -> None:
    if backend is None or backend_of(processor) in (None, backend):
        return
    with tempfile.TemporaryDirectory(prefix="image-processor-") as folder:
        processor.image_processor.save_pretrained(folder)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
    if backend_of(processor) != backend:
        raise UserError(
            f"the evaluation scaled the pictures by {backend}, which is not installed here or not known for this model:"
            " the model would see other pixels",
            where="report.json, reading.image_backend",
            mend=f"install {'Pillow' if backend == 'pil' else backend}, or evaluate in this environment",
        )


def _check_sides(processor: Any, family: ModelFamily, sides: dict[str, int]) -> None:
    pixels = processor.patch_size * processor.downsample_ratio
    for name, side in sides.items():
        known = not family.view_cells or side // pixels in family.view_cells
        if not known or side % pixels:
            allowed = " or ".join(str(cells * pixels) for cells in family.view_cells) or f"a multiple of {pixels}"
            raise UserError(f"the model sees no view of {side} pixels", where=name, mend=f"give {allowed}")
