"""The prepare step: read, select, lay out, draw, write shards, write the manifest."""

import logging
from collections import Counter
from collections.abc import Iterable
from functools import partial

from components.prepare.config import PrepareConfig
from components.prepare.drawing import draw_page
from components.prepare.fonts import find_fonts
from components.prepare.layout import DocumentPages, Page, lay_out
from components.prepare.manifest import build_manifest, page_counts
from components.prepare.parallel_map import ordered_map
from components.prepare.preview import PREVIEW_FILE, write_preview
from components.prepare.selection_old import CleanDocument, lowest, select_documents
from components.prepare.shards import write_shards
from components.prepare.sources.opening import read_documents
from components.shared.dataset_manifest import MANIFEST_FILE, DatasetManifest, Split
from components.shared.errors import UserError
from components.shared.output_folder import finished_folder
from components.shared.progress import track
from components.shared.tracking import step_run

log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("train", "eval")


def run(config: PrepareConfig) -> DatasetManifest:
    """Make the dataset folder ``config.output_dir`` and return its manifest.

    Raises:
        UserError: the source, a font or the output folder is not usable, or no page is left to learn from.
    """
    with step_run("prepare", config.data_settings()) as tracked, finished_folder(config.output_dir) as folder:
        faces = find_fonts(config.fonts)
        read = track(read_documents(config), "read documents", config.max_documents)
        documents, dropped = select_documents(read, config.eval_fraction, config.seed)
        _check_documents(documents, dropped, config)
        with ordered_map(config.workers) as parallel:
            laid_out = parallel(partial(lay_out, faces=faces, config=config), documents)
            pages = _pages(track(laid_out, "lay out documents", len(documents)), dropped)
            splits = {}
            for split in SPLITS:
                chosen = _chosen_pages(pages, split, config, dropped)
                drawn = parallel(partial(draw_page, faces=faces, config=config), chosen)
                shown = track(drawn, f"draw {split} pages", len(chosen))
                splits[split] = write_shards(shown, split, folder, config.image_format, config.max_samples_per_shard)
        manifest = build_manifest(config, faces, splits, documents, dropped)
        _check_pages(manifest, config)
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        write_preview(folder, manifest)
        tracked.log_dataset(manifest.digest, config.source, "training")
        tracked.log_metrics(page_counts(manifest))
        tracked.log_artifact(folder / MANIFEST_FILE)
        tracked.log_artifact(folder / PREVIEW_FILE)
    counts = ", ".join(f"{name} {int(count)}" for name, count in page_counts(manifest).items())
    log.info("%s is ready: %s", config.output_dir, counts)
    return manifest


def _pages(laid_out: Iterable[DocumentPages], dropped: Counter[str]) -> list[Page]:
    pages: list[Page] = []
    for document in laid_out:
        dropped.update(document.dropped)
        pages += document.pages
    return sorted(pages, key=lambda page: page.order)


def _chosen_pages(pages: list[Page], split: Split, config: PrepareConfig, dropped: Counter[str]) -> list[Page]:
    limit = config.max_train_pages if split == "train" else config.max_eval_pages
    of_split = [page for page in pages if page.split == split]
    chosen = lowest(limit, [page.order for page in of_split])
    if over := len(of_split) - len(chosen):
        dropped[f"page_over_max_{split}_pages"] = over
    return [page for page in of_split if page.order in chosen]


def _check_documents(documents: list[CleanDocument], dropped: Counter[str], config: PrepareConfig) -> None:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items()) or "it is empty"
    if not documents:
        raise UserError(f"no document has a text ({reasons})", where=f"source {config.source}")
    if len(documents) == 1 and config.eval_fraction > 0:
        raise UserError(
            "one document cannot be split, train and eval never share one",
            where=f"source {config.source}",
            mend="add documents, or set eval_fraction to 0",
        )


def _check_pages(manifest: DatasetManifest, config: PrepareConfig) -> None:
    for split, index in manifest.splits.items():
        if not index.samples and manifest.documents[split]:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in manifest.dropped.items())
            raise UserError(
                f"no {split} page could be drawn ({reasons})",
                where=f"source {config.source}",
                mend="name fonts that cover the texts, or a larger page",
            )
