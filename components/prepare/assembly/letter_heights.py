"""How high the letters of the kept PDF pages and scans are, and which are too small for the model."""

import json
import logging
from collections.abc import Mapping

import numpy as np

from components.prepare.documents.drop_table import MOST_NAMES
from components.prepare.output.merged_pages import MergedPages, SpooledPage
from components.shared.artifacts.dataset_manifest import LetterHeights, Split

log = logging.getLogger(__name__)

_NAMES_IN_A_MESSAGE = 3


def letter_heights(kept: Mapping[Split, MergedPages], least: float) -> LetterHeights | None:
    """Return the figures over all kept pages with a measured height; None if there is none.

    Args:
        least: pixels; lower letters are too small.
    """
    heights = np.concatenate([pages.letter_heights for pages in kept.values()])
    measured = heights[~np.isnan(heights)]
    if not len(measured):
        return None
    return LetterHeights(
        pages=len(measured),
        median=round(float(np.median(measured)), 1),
        min_letter_height=least,
        small_pages=int((measured < least).sum()),
        small_names=_first_names(kept, least),
    )


def warn_of_small_letters(found: LetterHeights | None) -> None:
    """Name pages with small letters in the log, if there are any."""
    if found is None or not found.small_pages:
        return
    names = found.small_names[:_NAMES_IN_A_MESSAGE]
    more = ", …" if found.small_pages > len(names) else ""
    log.warning(
        "%d of %d pages of PDFs and scans have letters lower than %g pixels, too small for the model to read (%s%s): "
        "raise picture_longest_edge, or give larger scans",
        found.small_pages,
        found.pages,
        found.min_letter_height,
        ", ".join(names),
        more,
    )


def _first_names(kept: Mapping[Split, MergedPages], least: float) -> list[str]:
    first: list[SpooledPage] = []
    for pages in kept.values():
        small = np.flatnonzero(pages.letter_heights < least)  # NaN is not
        first += pages.by_document(small)[:MOST_NAMES]
    first.sort(key=lambda page: (page.document, page.order))
    return [_name(page) for page in first[:MOST_NAMES]]


def _name(page: SpooledPage) -> str:
    about = json.loads(page.metadata)
    number = f"#page={about['page']}" if about["pages"] > 1 else ""
    return f"{about['source_id']}{number} ({about['letter_height']:g} px)"
