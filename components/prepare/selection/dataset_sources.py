"""Reads all sources of a dataset: the mixture and the holdout."""

from functools import partial
from pathlib import Path

from components.prepare.config import PrepareConfig
from components.prepare.selection.candidate import ExaminationTask
from components.prepare.selection.selecting import SelectionSettings, select_documents
from components.prepare.selection.selection_record import Selection
from components.prepare.sources.opening import read_documents, source_digest
from components.prepare.workers.worker_pool import WorkerPool
from components.shared.digests import sha256_json
from components.shared.telemetry.progress import track

SOURCE_DIGEST_FILE = "source_digest.txt"
"""In the selection's folder, because the machine that assembles may not see the source."""


def sources_digest(config: PrepareConfig) -> str:
    """Return a sha256 that changes if the content of any source changes.

    Raises:
        UserError: a source does not exist or cannot be read.
    """
    digests = [source_digest(source) for source in config.sources()]
    return digests[0] if len(digests) == 1 else sha256_json(digests)


def select_from_sources(config: PrepareConfig, folder: Path, pool: WorkerPool) -> Selection:
    """Read all sources and store the selected documents in ``folder``, using the processes of ``pool``.

    Raises:
        UserError: a source does not exist, is empty, unreadable or lacks a column.
    """
    settings = SelectionSettings(
        eval_fraction=config.eval_fraction,
        seed=config.seed,
        near_duplicate_threshold=config.near_duplicate_threshold,
        max_document_characters=config.max_document_characters,
        task=config.task,
    )
    limits = config.reading_limits()
    sources = [
        (source, track(read_documents(source, limits), f"read {source.source}", source.max_documents))
        for source in config.mixed_sources()
    ]
    holdout = track(read_documents(config.holdout, limits), "read the holdout") if config.holdout else None
    in_order = partial(pool.map, name=_name)
    return select_documents(sources, holdout, settings, folder, in_order)


def _name(task: ExaminationTask) -> str:
    return f"documents {task.documents[0].source_id} to {task.documents[-1].source_id}"


def sources_name(config: PrepareConfig) -> str:
    """Return the sources as one line for logs and MLflow."""
    return ", ".join(source.source for source in config.sources())
