"""Checks of settings of reading that need each other, for every step that has them; they import no model library."""

from typing import Any, Protocol, TypeVar

IMAGE_SETTINGS = ("base_size", "image_size", "crop_mode", "max_crops")
"""The settings of how the DeepSeek-OCR models see a page."""


class _WithNoRepeat(Protocol):
    @property
    def no_repeat_ngram_size(self) -> Any: ...

    @property
    def no_repeat_ngram_window(self) -> int | None: ...


class _WithTiles(Protocol):
    @property
    def crop_mode(self) -> bool | None: ...

    @property
    def max_crops(self) -> int | None: ...


Config = TypeVar("Config", bound=_WithNoRepeat)
TiledConfig = TypeVar("TiledConfig", bound=_WithTiles)


def window_needs_a_size(config: Config) -> Config:
    """Return the config; for ``pydantic.model_validator(mode="after")``.

    Raises:
        ValueError: it has a window, and no number as size: ``family`` brings its own window.
    """
    if config.no_repeat_ngram_window is not None and not isinstance(config.no_repeat_ngram_size, int):
        raise ValueError("no_repeat_ngram_window needs a number for no_repeat_ngram_size")
    return config


def tiles_need_crop_mode(config: TiledConfig) -> TiledConfig:
    """Return the config; for ``pydantic.model_validator(mode="after")``.

    Raises:
        ValueError: it has a number of tiles, and pages are not cut into tiles.
    """
    if config.max_crops is not None and config.crop_mode is False:
        raise ValueError("max_crops is a number of tiles, and without crop_mode there are none: leave one out")
    return config
