"""Intervals that the evaluation's report lacks, computed from its predictions."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import UserError
from components.shared.scoring.paired_comparison import Interval
from components.shared.scoring.statistics import DocumentBootstrap

_RESAMPLES = 1000
_SEED = 0


def loop_interval(samples: Path, model: str) -> Interval | None:
    """Return the 95 % interval over documents of the share of pages that end in a loop; None with one document.

    Raises:
        UserError: the predictions cannot be read.
    """
    pages = [row for row in _loops(samples) if row["model"] == model]
    if not pages:
        return None
    bootstrap = DocumentBootstrap([row["source_id"] for row in pages], _RESAMPLES, _SEED)
    return bootstrap.interval([float(row["loop"]) for row in pages], [1.0] * len(pages))


@lru_cache(maxsize=8)
def _loops(samples: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(samples, columns=["model", "source_id", "loop"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the predictions cannot be read ({error})", where=str(samples)) from error
    return rows
