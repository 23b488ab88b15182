"""Collects the result of drawing a part of the documents: pages in a spool, and a record of everything else."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.prepare.documents.drop_reasons import DropReason
from components.prepare.documents.drop_table import DropTable
from components.prepare.drawing.document_drawing import DrawnDocument, DrawnPage
from components.prepare.output.merged_pages import MergedPages, PageKey
from components.prepare.output.page_spool import PageSpool
from components.prepare.rendering.rendered_document import FailedPage
from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

_RECORD_FILE = "drawn.json"
_OVER_LIMIT: dict[Split, DropReason] = {"train": "page_over_max_train_pages", "eval": "page_over_max_eval_pages"}
_MEND = "draw these pages again"


class DrawingRecord(BaseModel):
    """What the manifest needs to know about a drawing.

    Attributes:
        partition, partitions: which part of the documents was drawn.
        layout_engine: the text engine's name and versions.
        fonts: file name -> sha256.
        attempted: split -> number of pages, drawn or not.
        dropped, dropped_names: reason -> count, and the first names; only what does not depend on the page limits.
        failed: split -> pages that could not be drawn.
    """

    model_config = ConfigDict(extra="forbid")

    partition: int
    partitions: int
    layout_engine: str
    fonts: dict[str, str]
    attempted: dict[Split, int]
    dropped: dict[DropReason, int]
    dropped_names: dict[DropReason, list[str]]
    failed: dict[Split, list[FailedPage]]


class DrawingLog:
    """Records drawn documents and, with page limits, says which pages no longer need to be drawn.

    Args:
        folder: holds the page files; ``finish`` completes it.
        limits: split -> maximum number of pages to keep; None: all.
    """

    def __init__(self, folder: Path, limits: Mapping[Split, int | None]) -> None:
        self._folder = folder
        self._spool = PageSpool(folder)
        self._limits = {split: limit for split, limit in limits.items() if limit is not None}
        self._kept: dict[Split, list[PageKey]] = {split: [] for split in self._limits}
        self.last_kept: dict[Split, PageKey] = {}
        """split -> the highest key that can still be kept; it only decreases"""
        self._attempted: Counter[Split] = Counter()
        self._dropped = DropTable()
        self._failed: dict[Split, list[FailedPage]] = {}

    def take(self, document: DrawnDocument) -> None:
        """Record where the pages of a document are, and what happened to the others.

        Raises:
            UserError: a picture is broken, ``on_unreadable`` is ``stop``, and no page limit can leave the page out.
        """
        self._attempted[document.split] += document.attempted
        for reason, count in document.dropped.items():
            self._dropped.add(reason, document.name, count=count)
        for failed in document.failed:
            if document.split not in self._limits:
                check_picture(failed)
            self._failed.setdefault(document.split, []).append(failed)
        for page in document.pages:
            self._spool.add(page.order, document.split, document.number, page.stored, page.rank, page.letter_height)
            if document.split in self._limits:
                self._lower_limit(document.split, page)

    def finish(self, partition: int, partitions: int, layout_engine: str, fonts: dict[str, str]) -> None:
        """Close the spool and write the record."""
        self._spool.close()
        record = DrawingRecord(
            partition=partition,
            partitions=partitions,
            layout_engine=layout_engine,
            fonts=fonts,
            attempted=dict(self._attempted),
            dropped=dict(self._dropped.counts),
            dropped_names=self._dropped.names,
            failed=self._failed,
        )
        (self._folder / _RECORD_FILE).write_text(record.model_dump_json(), encoding="utf-8")

    def _lower_limit(self, split: Split, page: DrawnPage) -> None:
        kept, limit = self._kept[split], self._limits[split]
        negative = (-page.rank, -page.order)
        if len(kept) < limit:
            heapq.heappush(kept, negative)
        else:
            heapq.heappushpop(kept, negative)
        if len(kept) == limit:
            self.last_kept[split] = (-kept[0][0], -kept[0][1])


def read_drawing_record(folder: Path) -> DrawingRecord:
    """Read the record that ``DrawingLog.finish`` wrote.

    Raises:
        UserError: there is no record, or it is damaged.
    """
    path = folder / _RECORD_FILE
    try:
        return DrawingRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"no finished drawing ({error.strerror})", where=str(path), mend="draw these pages again"
        ) from error
    except ValidationError as error:
        raise UserError("the record of the drawing is damaged", where=str(path), mend=_MEND) from error


def check_picture(page: FailedPage) -> None:
    """Stop at a broken picture.

    Raises:
        UserError: the picture is broken, and its source's ``on_unreadable`` is ``stop``.
    """
    if page.stops:
        raise UserError(page.problem, where=page.name, mend="fix or remove it, or set on_unreadable to skip")


def dropped_pages(
    records: Sequence[DrawingRecord], kept: Mapping[Split, MergedPages], limits: Mapping[Split, int | None]
) -> DropTable:
    """Return everything that was selected and is not in the shards.

    A page above its split's limit counts as ``page_over_max_<split>_pages`` even if it was tried and failed: which of
    these pages are tried depends on timing, and the counts must not.

    Raises:
        UserError: a picture is broken that is within the limits, and its source's ``on_unreadable`` is ``stop``.
    """
    records = sorted(records, key=lambda record: record.partition)
    table = DropTable()
    for record in records:
        table.update(record.dropped, record.dropped_names, {})
    for split, pages in kept.items():
        # The key decides only if there were more pages than the limit.
        last = pages.highest_key if limits[split] is not None and len(pages) == limits[split] else None
        failures = [
            page
            for record in records
            for page in record.failed.get(split, [])
            if last is None or (page.rank, page.order) <= last
        ]
        for page in failures:
            check_picture(page)
            table.add(page.reason, page.name)
        attempted = sum(record.attempted.get(split, 0) for record in records)
        table.counts[_OVER_LIMIT[split]] += attempted - len(pages) - len(failures)
    return table
