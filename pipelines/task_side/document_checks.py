"""How many documents a run has, as far as that can be told without reading them: too few are named before it starts."""

import logging
import math
from collections.abc import Sequence

from components.prepare.config import PrepareConfig
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import most_documents
from components.shared.errors import UserError

logger = logging.getLogger(__name__)

_WAYS_OUT = (
    "raise prepare.eval_fraction or the limit, name more documents in prepare.holdout, or lower gate.min_documents"
)


def check_documents(prepare: PrepareConfig, min_documents: int, max_pages: int | None) -> None:
    """Refuse sources that cannot be split; warn if fewer documents can be held out than the gate asks for.

    Args:
        min_documents: the gate's.
        max_pages: the most pages that evaluate reads.

    Raises:
        UserError: no such source, no document in it, or a single one and none to hold out.
    """
    enough = math.ceil((min_documents + 1) / (prepare.eval_fraction or 1))
    found = _most(prepare.mixed_sources(), enough)
    held_out = _most([prepare.holdout], enough) if prepare.holdout else None
    if found == 1 and not prepare.holdout:
        raise UserError(
            "one document cannot be split between train and eval",
            where=f"source {prepare.source}",
            mend="add documents, or name documents to hold out in prepare.holdout",
        )
    limits = {
        "prepare.max_eval_pages": prepare.max_eval_pages,
        "evaluate.max_pages": max_pages,
        "prepare.holdout": held_out,
    }
    if found is not None and not prepare.holdout:
        # A document's text and the seed decide its side, so it can be a few more or fewer.
        limits[f"prepare.eval_fraction of {found} documents"] = round(found * prepare.eval_fraction)
    for name, most in limits.items():
        if most is not None and most < min_documents:
            about = "about" if name.startswith("prepare.eval_fraction") else "at most"
            logger.warning(
                f"{name} holds out {about} {most} documents, and the gate promotes only from {min_documents} on:"
                f" {_WAYS_OUT}"
            )
            return


def _most(sources: Sequence[SourceSettings], enough: int) -> int | None:
    counts = [most_documents(source, enough) for source in sources]
    for source, count in zip(sources, counts, strict=True):
        if count == 0:
            raise UserError("no document in it can be read", where=f"source {source.source}", mend="name another one")
    return None if None in counts else min(enough, sum(count for count in counts if count))
