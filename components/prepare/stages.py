"""Prepare in three stages that may run on different machines: select documents, draw their pages, assemble shards.

Each stage reads only the folder that the stage before it wrote. Pages can be drawn in partitions, each on a machine
of its own; the assembled dataset is the same, byte for byte.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from components.prepare.assembly.dataset_writing import write_dataset
from components.prepare.assembly.manifest import font_digests
from components.prepare.config import PrepareConfig
from components.prepare.drawing.document_drawing import Drawing, draw_documents, import_drawing
from components.prepare.drawing.drawing_log import DrawingLog
from components.prepare.drawing.reference_pages import pixel_variant
from components.prepare.selection.dataset_sources import (
    SOURCE_DIGEST_FILE,
    select_from_sources,
    sources_digest,
    sources_name,
)
from components.prepare.selection.selection_record import Selection
from components.prepare.typesetting.engine_choice import choose_engine
from components.prepare.typesetting.fonts import find_fonts
from components.prepare.typesetting.script_coverage import check_scripts, scripts_error
from components.prepare.workers.worker_pool import WorkerPool
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import UserError
from components.shared.telemetry.progress import track
from components.shared.telemetry.tracing import span
from components.shared.tracking.step_run import step_run

log = logging.getLogger(__name__)


def select(config: PrepareConfig, selection_dir: Path) -> Selection:
    """Read all sources; clean, deduplicate, split and store the documents in the new folder ``selection_dir``.

    Raises:
        UserError: a source or a font cannot be used, no document is left, or more than ``max_uncovered_share`` of the
            documents use a script that the fonts lack.
    """
    with worker_pool(config) as pool:
        return select_with(pool, config, selection_dir)


def select_with(pool: WorkerPool, config: PrepareConfig, selection_dir: Path) -> Selection:
    """Do the same as ``select`` with the processes of ``pool``."""
    faces = find_fonts(config.fonts)
    with finished_folder(selection_dir) as folder:
        (folder / SOURCE_DIGEST_FILE).write_text(sources_digest(config), encoding="utf-8")
        with span("select documents"):
            selection = select_from_sources(config, folder, pool)
        _check_documents(selection, config)
        uncovered = check_scripts(selection.scripts, selection.characters, faces)
        if any(script.documents > config.max_uncovered_share * selection.count for script in uncovered):
            raise scripts_error(uncovered, selection.count)
        for script in uncovered:
            log.warning("no font covers %s, which %d documents use", script.name, script.documents)
    return Selection.load(selection_dir)


def draw(config: PrepareConfig, selection_dir: Path, pages_dir: Path, partition: int, partitions: int) -> None:
    """Draw one of ``partitions`` parts of the selected documents into the new folder ``pages_dir``.

    Raises:
        UserError: there is no valid selection, the configured Pango is missing, or a drawing process died.
    """
    with worker_pool(config) as pool:
        draw_pages(config, selection_dir, pages_dir, pool, partition, partitions)


def worker_pool(config: PrepareConfig) -> WorkerPool:
    """Return the pool that selects, draws and writes; its processes start when its ``with`` block is entered."""
    return WorkerPool(config.workers, import_drawing)


def draw_pages(
    config: PrepareConfig,
    selection_dir: Path,
    pages_dir: Path,
    pool: WorkerPool,
    partition: int = 0,
    partitions: int = 1,
) -> None:
    """Do the same as ``draw`` with the processes of ``pool``."""
    faces = find_fonts(config.fonts)
    choice = choose_engine(config.text_engine, faces)
    log.info("text engine: %s (%s)", choice.engine.name, choice.reason)
    selection = Selection.load(selection_dir)
    first, end = (selection.count * part // partitions for part in (partition, partition + 1))
    documents = selection.read_documents(first, end)
    with finished_folder(pages_dir) as folder:
        account = DrawingLog(folder, config.page_limits())
        drawing = Drawing(config, faces, folder, pixel_variant())
        drawn = draw_documents(documents, drawing, account.last_kept, pool)
        for document in track(drawn, "draw documents", end - first):
            account.take(document)
        account.finish(partition, partitions, _engine_name(choice.engine.name, drawing.variant), font_digests(faces))


def _engine_name(engine: str, variant: str) -> str:
    """Return the engine's name; a variant is part of it, so partitions with different pixels are not mixed."""
    if not variant:
        return engine
    log.warning("this processor draws or encodes pages differently from most (variant %s): see reliability.md", variant)
    return f"{engine} pixels-{variant}"


def assemble(
    config: PrepareConfig, selection_dir: Path, pages_dirs: Sequence[Path], output_dir: Path
) -> DatasetManifest:
    """Make the dataset in ``output_dir`` from the pages of all partitions, tracked as the prepare step.

    Raises:
        UserError: a partition is missing or damaged, was drawn with other fonts or another engine, or no page is left
            to train on.
    """
    with (
        step_run("prepare", config.data_settings()) as tracked,
        finished_folder(output_dir) as folder,
        worker_pool(config) as pool,
    ):
        return write_dataset(config, selection_dir, pages_dirs, folder, pool, tracked)


def _check_documents(selection: Selection, config: PrepareConfig) -> None:
    reasons = str(selection.drop_table()) or "it is empty"
    where = f"source {sources_name(config)}"
    if not selection.count:
        raise UserError(f"no document has a text ({reasons})", where=where)
    if config.holdout and not selection.documents.get("eval"):
        raise UserError(f"no document of the holdout has a text ({reasons})", where=f"holdout {config.holdout.source}")
    if selection.count == 1 and (config.eval_fraction > 0 or config.holdout):
        raise UserError(
            "one document cannot be split between train and eval",
            where=where,
            mend="add documents, or set eval_fraction to 0",
        )
