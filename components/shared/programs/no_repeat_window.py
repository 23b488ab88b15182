"""The check of ``no_repeat_ngram_window`` that every step with these settings makes; it imports no model library."""

from typing import Any, Protocol, TypeVar


class _WithNoRepeat(Protocol):
    @property
    def no_repeat_ngram_size(self) -> Any: ...

    @property
    def no_repeat_ngram_window(self) -> int | None: ...


Config = TypeVar("Config", bound=_WithNoRepeat)


def window_needs_a_size(config: Config) -> Config:
    """Return the config; for ``pydantic.model_validator(mode="after")``.

    Raises:
        ValueError: it has a window, and no number as size: ``family`` brings its own window.
    """
    if config.no_repeat_ngram_window is not None and not isinstance(config.no_repeat_ngram_size, int):
        raise ValueError("no_repeat_ngram_window needs a number for no_repeat_ngram_size")
    return config
