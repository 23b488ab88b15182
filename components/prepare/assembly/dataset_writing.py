"""The drawn pages of all partitions become shards, manifest and preview."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from components.prepare.assembly.letter_heights import letter_heights, warn_of_small_letters
from components.prepare.assembly.manifest import build_manifest, page_counts
from components.prepare.config import PrepareConfig
from components.prepare.documents.drop_table import DropTable
from components.prepare.drawing.drawing_log import DrawingRecord, dropped_pages, read_drawing_record
from components.prepare.output.merged_pages import merged
from components.prepare.output.page_spool import PageSpool
from components.prepare.output.preview import PREVIEW_FILE, write_preview
from components.prepare.output.shards import ShardTask, write_shards
from components.prepare.selection.dataset_sources import SOURCE_DIGEST_FILE, sources_name
from components.prepare.selection.selection_record import Selection
from components.prepare.workers.worker_pool import WorkerPool
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, DatasetManifest, Shard, Split
from components.shared.errors import UserError
from components.shared.telemetry.progress import track
from components.shared.telemetry.tracing import span
from components.shared.tracking.step_run import TrackedRun

log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = get_args(Split)


def write_dataset(
    config: PrepareConfig,
    selection_dir: Path,
    pages_dirs: Sequence[Path],
    folder: Path,
    pool: WorkerPool,
    tracked: TrackedRun,
) -> DatasetManifest:
    """Write shards, manifest and preview into ``folder`` and log them.

    Raises:
        UserError: a partition is missing or damaged, was drawn with other fonts or another engine, or no page is left
            to train on."""
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
    dropped = selection.drop_table()
    in_pages = dropped_pages(records, kept, config.page_limits())
    dropped.update(in_pages.counts, in_pages.names, {})
    source_digest = (selection_dir / SOURCE_DIGEST_FILE).read_text(encoding="utf-8")
    letters = letter_heights(kept, config.least_letter_height())
    warn_of_small_letters(letters)
    manifest = build_manifest(config, source_digest, records[0], splits, documents, dropped, letters)
    _check_pages(manifest, dropped, selection, config)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    with span("write the preview"):
        write_preview(folder, manifest, partial(pool.map, name=lambda sample: sample.key))
    _log(manifest, config, folder, tracked)
    _warn_of_few_documents(manifest, config)
    return manifest


def _tracked_map(
    pool: WorkerPool, description: str, write: Callable[[ShardTask], Shard], tasks: list[ShardTask]
) -> Iterator[Shard]:
    return track(pool.map(write, tasks, name=lambda task: task.path.name), description, len(tasks))


def _log(manifest: DatasetManifest, config: PrepareConfig, folder: Path, tracked: TrackedRun) -> None:
    tracked.log_dataset(manifest.digest, manifest.sources_name(), "training")
    tracked.log_metrics(page_counts(manifest))
    tracked.log_artifact(folder / MANIFEST_FILE)
    tracked.log_artifact(folder / PREVIEW_FILE)
    counts = ", ".join(f"{name} {int(count)}" for name, count in page_counts(manifest).items())
    log.info("the dataset is ready: %s", counts)


def _warn_of_few_documents(manifest: DatasetManifest, config: PrepareConfig) -> None:
    held_out = manifest.documents.get("eval", 0)
    if held_out < config.min_eval_documents and (held_out or config.eval_fraction):
        log.warning(
            "%d documents are held out for evaluation, and the gate promotes only from %d on: raise eval_fraction, name"
            " more documents in holdout, or lower the gate's min_documents",
            held_out,
            config.min_eval_documents,
        )


def _check_partitions(records: Sequence[DrawingRecord], pages_dirs: Sequence[Path]) -> None:
    first = records[0]
    if sorted(record.partition for record in records) != list(range(first.partitions)):
        parts = ", ".join(f"{record.partition + 1} of {record.partitions}" for record in records)
        raise UserError(
            f"a partition is missing or given twice ({parts})",
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
                f"drawn with different fonts than {pages_dirs[0]}",
                where=str(pages_dir),
                mend="draw all partitions in the same image",
            )


def _check_pages(manifest: DatasetManifest, dropped: DropTable, selection: Selection, config: PrepareConfig) -> None:
    for split, index in manifest.splits.items():
        if not index.samples and selection.documents.get(split):
            raise UserError(
                f"no {split} page could be drawn ({dropped})",
                where=f"source {sources_name(config)}",
                mend=_mend(dropped),
            )


def _mend(dropped: DropTable) -> str:
    """Return the advice for the most frequent reason that a setting or a file can change."""
    for reason, _ in dropped.counts.most_common():
        if reason.endswith(("glyph_missing", "needs_shaping")):
            return "name fonts that cover the texts"
        if reason.endswith("does_not_fit"):
            return "set a larger page or a smaller font"
        if reason == "page_picture_unreadable":
            return "replace the broken pictures"
        if reason == "page_picture_too_large":
            return "raise max_picture_pixels, or give smaller pictures"
    return "give documents with text"
