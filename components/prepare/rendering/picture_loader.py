"""Loads the pictures of pages in a process of its own, with limits of time and memory."""

import numpy as np

from components.prepare.documents.document import PagePicture
from components.prepare.documents.reading_tasks import READING_MODULES
from components.prepare.rendering.page_pictures import PageError, load_page
from components.shared.foreign_files.foreign_reader import ForeignReader
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits


class PictureLoader:
    """The process starts with the first picture.

    Args:
        limits: for each picture.
        longest_edge, max_pixels: those of ``load_page``.
    """

    def __init__(self, limits: ReadingLimits, longest_edge: int | None, max_pixels: int) -> None:
        self._reader = ForeignReader(limits, preload=READING_MODULES)
        self._longest_edge = longest_edge
        self._max_pixels = max_pixels

    def load(self, picture: PagePicture) -> np.ndarray:
        """Return what ``load_page`` does.

        Raises:
            PageError: as ``load_page``, or the picture goes beyond the limits.
        """
        try:
            return self._reader.call(load_page, picture, self._longest_edge, self._max_pixels)
        except LimitExceededError as error:
            page = "" if picture.page_index is None else f", page {picture.page_index + 1}"
            raise PageError("over_limits", f"{picture.path}{page}: {error.problem}") from error

    def close(self) -> None:
        """End the process."""
        self._reader.close()
