"""Prepare in three stages that may run on different machines: select documents, draw their pages, assemble shards.

What one stage leaves in its folder is all that the next one reads; pages may be drawn in partitions, each by a
machine of its own, and the assembled dataset is the same, byte for byte.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from components.prepare.config import PrepareConfig
from components.prepare.dataset_sources import select_from_sources, sources_digest, sources_name
from components.prepare.drawing import Drawing, draw_documents, import_drawing
from components.prepare.drawing_log import DrawingLog, DrawingRecord, dropped_pages, read_drawing_record
from components.prepare.manifest import build_manifest, font_digests, page_counts
from components.prepare.output.page_spool import PageSpool, merged
from components.prepare.output.preview import PREVIEW_FILE, write_preview
from components.prepare.output.shards import ShardTask, write_shards
from components.prepare.selection.selection_record import Selection
from components.prepare.typesetting.engine_choice import choose_engine
from components.prepare.typesetting.fonts import find_fonts
from components.prepare.typesetting.script_coverage import check_scripts, scripts_error
from components.prepare.worker_pool import WorkerPool
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, DatasetManifest, Shard, Split
from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import UserError
from components.shared.telemetry.progress import track
from components.shared.telemetry.tracing import span
from components.shared.tracking.step_run import TrackedRun, step_run

log = logging.getLogger(__name__)

_SOURCE_DIGEST_FILE = "source_digest.txt"
"""In the selection's folder: the machine that assembles need not see the source."""
SPLITS: tuple[Split, ...] = get_args(Split)


def select(config: PrepareConfig, selection_dir: Path) -> Selection:
    """Read all sources; clean, deduplicate, split and store the documents in ``selection_dir``, which is made.

    Raises:
        UserError: a source or a font is not usable, no document is left, or the fonts lack a script that more than
            ``max_uncovered_share`` of the documents use.
    """
    with worker_pool(config) as pool:
        return select_with(pool, config, selection_dir)


def select_with(pool: WorkerPool, config: PrepareConfig, selection_dir: Path) -> Selection:
    """Select with the processes of ``pool``; see ``select``."""
    faces = find_fonts(config.fonts)
    with finished_folder(selection_dir) as folder:
        (folder / _SOURCE_DIGEST_FILE).write_text(sources_digest(config), encoding="utf-8")
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
    """Draw the pages of one of ``partitions`` parts of the selected documents into ``pages_dir``, which is made.

    Raises:
        UserError: the selection is not one, Pango is wanted and missing, or a drawing process died.
    """
    with worker_pool(config) as pool:
        draw_pages(config, selection_dir, pages_dir, pool, partition, partitions)


def worker_pool(config: PrepareConfig) -> WorkerPool:
    """Return the processes that draw and write; they start in its block."""
    return WorkerPool(config.workers, import_drawing)


def draw_pages(
    config: PrepareConfig,
    selection_dir: Path,
    pages_dir: Path,
    pool: WorkerPool,
    partition: int = 0,
    partitions: int = 1,
) -> None:
    """Draw with the processes of ``pool``; see ``draw``."""
    faces = find_fonts(config.fonts)
    choice = choose_engine(config.text_engine, faces)
    log.info("text engine: %s (%s)", choice.engine.name, choice.reason)
    selection = Selection.load(selection_dir)
    first, end = (selection.count * part // partitions for part in (partition, partition + 1))
    documents = selection.read_documents(first, end)
    with finished_folder(pages_dir) as folder:
        account = DrawingLog(folder, config.page_limits())
        drawn = draw_documents(documents, Drawing(config, faces, folder), account.order_limits, pool)
        for document in track(drawn, "draw documents", end - first):
            account.take(document)
        account.finish(partition, partitions, choice.engine.name, font_digests(faces))


def assemble(
    config: PrepareConfig, selection_dir: Path, pages_dirs: Sequence[Path], output_dir: Path
) -> DatasetManifest:
    """Make the dataset in ``output_dir`` of the pages of all partitions, tracked as the prepare step.

    Raises:
        UserError: a partition is missing, damaged or was drawn with other fonts or another engine, or no page is left
            to learn from.
    """
    with (
        step_run("prepare", config.data_settings()) as tracked,
        finished_folder(output_dir) as folder,
        worker_pool(config) as pool,
    ):
        return write_dataset(config, selection_dir, pages_dirs, folder, pool, tracked)


def write_dataset(
    config: PrepareConfig,
    selection_dir: Path,
    pages_dirs: Sequence[Path],
    folder: Path,
    pool: WorkerPool,
    tracked: TrackedRun,
) -> DatasetManifest:
    """Write shards, manifest and preview into ``folder`` and log them; see ``assemble``."""
    selection = Selection.load(selection_dir)
    records = [read_drawing_record(pages_dir) for pages_dir in pages_dirs]
    _check_partitions(records, pages_dirs)
    spools = [PageSpool.open(pages_dir) for pages_dir in pages_dirs]
    kept = {split: merged(spools, split, config.page_limits()[split]) for split in SPLITS}
    splits = {}
    for split, pages in kept.items():
        in_order = partial(_tracked_map, pool, f"write {split} shards")
        splits[split] = write_shards(pages, split, folder, config.image_format, config.max_samples_per_shard, in_order)
    documents = {split: pages.documents for split, pages in kept.items()}
    dropped = selection.dropped + dropped_pages(records, kept, config.page_limits())
    source_digest = (selection_dir / _SOURCE_DIGEST_FILE).read_text(encoding="utf-8")
    manifest = build_manifest(config, source_digest, records[0], splits, documents, dropped)
    _check_pages(manifest, selection, config)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    with span("write the preview"):
        write_preview(folder, manifest, partial(pool.map, name=lambda sample: sample.key))
    _log(manifest, config, folder, tracked)
    return manifest


def _tracked_map(
    pool: WorkerPool, description: str, write: Callable[[ShardTask], Shard], tasks: list[ShardTask]
) -> Iterator[Shard]:
    return track(pool.map(write, tasks, name=lambda task: task.path.name), description, len(tasks))


def _log(manifest: DatasetManifest, config: PrepareConfig, folder: Path, tracked: TrackedRun) -> None:
    tracked.log_dataset(manifest.digest, sources_name(config), "training")
    tracked.log_metrics(page_counts(manifest))
    tracked.log_artifact(folder / MANIFEST_FILE)
    tracked.log_artifact(folder / PREVIEW_FILE)
    counts = ", ".join(f"{name} {int(count)}" for name, count in page_counts(manifest).items())
    log.info("the dataset is ready: %s", counts)


def _check_documents(selection: Selection, config: PrepareConfig) -> None:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in selection.dropped.items()) or "it is empty"
    where = f"source {sources_name(config)}"
    if not selection.count:
        raise UserError(f"no document has a text ({reasons})", where=where)
    if config.holdout and not selection.documents.get("eval"):
        raise UserError(f"no document of the holdout has a text ({reasons})", where=f"holdout {config.holdout.source}")
    if selection.count == 1 and (config.eval_fraction > 0 or config.holdout):
        raise UserError(
            "one document cannot be split, train and eval never share one",
            where=where,
            mend="add documents, or set eval_fraction to 0",
        )


def _check_partitions(records: Sequence[DrawingRecord], pages_dirs: Sequence[Path]) -> None:
    first = records[0]
    if sorted(record.partition for record in records) != list(range(first.partitions)):
        parts = ", ".join(f"{record.partition + 1} of {record.partitions}" for record in records)
        raise UserError(
            f"not every partition is there once ({parts})",
            where=", ".join(map(str, pages_dirs)),
            mend="give the pages of all partitions, each once",
        )
    for record, pages_dir in zip(records, pages_dirs, strict=True):
        if record.partitions != first.partitions or record.layout_engine != first.layout_engine:
            raise UserError(
                f"drawn by {record.layout_engine} in {record.partitions} partitions, "
                f"and {pages_dirs[0]} by {first.layout_engine} in {first.partitions}",
                where=str(pages_dir),
                mend="draw all partitions in the same image",
            )
        if record.fonts != first.fonts:
            raise UserError(
                f"drawn with other fonts than {pages_dirs[0]}",
                where=str(pages_dir),
                mend="draw all partitions in the same image",
            )


def _check_pages(manifest: DatasetManifest, selection: Selection, config: PrepareConfig) -> None:
    for split, index in manifest.splits.items():
        if not index.samples and selection.documents.get(split):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in manifest.dropped.items())
            raise UserError(
                f"no {split} page could be drawn ({reasons})",
                where=f"source {sources_name(config)}",
                mend="name fonts that cover the texts, or a larger page",
            )
