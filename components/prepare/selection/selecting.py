"""Decides which documents are kept, on which side of the split, and in which order.

Copies: the first document is kept, and exact or near copies of it are dropped. The holdout comes first, then the
sources in the given order. So no document has a copy on the other side of the split, as far as MinHash finds it (see
``bands_and_rows``). The reason ends in ``_across_splits`` if the copy would have been on the other side.

Split: a document goes to eval if the position of its fingerprint is below ``eval_fraction``. It keeps its side when
other documents come or go, except that one document is moved if a side would be empty. With a holdout, eval consists
of its documents only.

Mixture: if there are several sources and one has a weight, source i keeps weight_i * T documents, with the largest T
for which every source has enough. From both sides, those with the lowest positions are kept. The others are counted as
``document_over_weight``. The holdout is not part of the mixture. Documents are numbered in the order of the sources,
the holdout first.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.drop_reasons import DropReason
from components.prepare.documents.drop_table import DropTable
from components.prepare.selection.candidate import ExaminationTask, Examined, SelectionSettings, examine_all
from components.prepare.selection.document_store import numbered, read_record, write_lines
from components.prepare.selection.intake import Intake
from components.prepare.selection.selection_record import Selection, SourceCounts
from components.prepare.selection.splitting import lowest_of_both_sides, mixture, with_both_sides
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import way_to_read_pictures
from components.shared.errors import UserError

log = logging.getLogger(__name__)

__all__ = ["HOLDOUT", "SelectionSettings", "select_documents"]

HOLDOUT = "holdout"
"""name of the holdout in ``Selection.sources``"""

_DOCUMENTS_PER_TASK = 32
_OVER_WEIGHT: DropReason = "document_over_weight"

Mask = NDArray[np.bool_]
Examiner = Callable[[ExaminationTask], list[Examined]]
InOrder = Callable[[Examiner, Iterable[ExaminationTask]], Iterable[list[Examined]]]
"""``map``, or a version of it that uses worker processes."""


def select_documents(
    sources: Sequence[tuple[SourceSettings, Iterable[Document | Unreadable]]],
    holdout: Iterable[Document | Unreadable] | None,
    settings: SelectionSettings,
    folder: Path,
    in_order: InOrder = map,
) -> Selection:
    """Clean, deduplicate, split and mix documents; write them and ``selection.json`` into ``folder``.

    The docstring of this module explains copies, split and mixture.

    Args:
        in_order: applies a function to tasks and yields results in order; used to examine the documents.

    Raises:
        UserError: sources are mixed by weight, and one of them has no usable document.
        FileExistsError: the folder already holds documents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fraction = settings.eval_fraction if holdout is None else 0.0
    examined = partial(_examined, settings=settings, in_order=in_order)
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".selecting-") as scratch,
        Intake(settings, Path(scratch)) as intake,
    ):
        held_out = [] if holdout is None else [_read(intake, HOLDOUT, examined(holdout), lambda position: True)]
        parts = [
            _read(intake, source.source, examined(documents), lambda position: position < fraction)
            for source, documents in sources
        ]
        chosen = _chosen(intake, parts, [source.weight for source, _ in sources])
        evaluated = np.array(intake.evaluated, dtype=bool)
        if fraction > 0:
            evaluated[chosen] = with_both_sides(evaluated[chosen], _positions(intake)[chosen])
        over_weight = DropTable()
        written = write_lines(folder, _numbered_lines(intake, chosen, evaluated, over_weight))
        selection = _selection(folder, written, intake, held_out + parts, chosen, evaluated, over_weight)
    selection.save()
    return selection


@dataclass(frozen=True)
class _Part:
    """The documents of one source; ``members`` are the positions of those that were kept."""

    source: str
    read: int
    members: slice
    dropped: DropTable

    def counts(self, chosen: Mask) -> SourceCounts:
        """Return the counts of the source, including the documents in ``members`` that were not chosen."""
        of_part = chosen[self.members]
        over: Counter[DropReason] = Counter({_OVER_WEIGHT: int((~of_part).sum())})
        dropped = self.dropped.counts + over
        return SourceCounts(source=self.source, read=self.read, kept=int(of_part.sum()), dropped=dropped)


def _examined(
    documents: Iterable[Document | Unreadable], settings: SelectionSettings, in_order: InOrder
) -> Iterator[Examined]:
    remaining = iter(documents)
    batches = iter(lambda: list(islice(remaining, _DOCUMENTS_PER_TASK)), [])
    for examined in in_order(examine_all, (ExaminationTask(batch, settings) for batch in batches)):
        yield from examined


def _read(intake: Intake, source: str, documents: Iterable[Examined], evaluated: Callable[[float], bool]) -> _Part:
    start, read = len(intake.positions), 0
    dropped = DropTable()
    for document in documents:
        read += document.count if isinstance(document, Unreadable) else 1
        if isinstance(document, Unreadable):
            if document.problem and not document.kind and dropped.wants_name(document.reason):
                log.warning("%s is skipped: %s", document.source_id, document.problem)
            dropped.add(document.reason, document.source_id, document.kind, document.count)
        elif reason := intake.take(document, evaluated):
            dropped.add(reason, read_record(document.line)["source_id"] if dropped.wants_name(reason) else None)
    _log_dropped(source, dropped)
    return _Part(source, read, slice(start, len(intake.positions)), dropped)


def _log_dropped(source: str, dropped: DropTable) -> None:
    if dropped.kinds:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(dropped.kinds.items()))
        way = way_to_read_pictures("FOLDER" if source == HOLDOUT else source, dropped.kinds)
        log.warning("%s: files of kinds that are not read: %s%s", source, kinds, f"; {way}" if way else "")
    if dropped.counts:
        log.info("%s: not used: %s", source, dropped)


def _positions(intake: Intake) -> NDArray[np.float64]:
    return np.array(intake.positions, dtype=np.float64)


def _chosen(intake: Intake, parts: list[_Part], weights: list[float | None]) -> Mask:
    """Return the mask of the documents that the mixture takes (all of the holdout); all if there is no mixture."""
    chosen = np.ones(len(intake.positions), dtype=bool)
    if len(parts) == 1 or all(weight is None for weight in weights):
        return chosen
    positions, evaluated = _positions(intake), np.array(intake.evaluated, dtype=bool)
    available = [part.members.stop - part.members.start for part in parts]
    for part, count in zip(parts, available, strict=True):
        if not count:
            reasons = part.dropped or "it is empty"
            raise UserError(
                f"no document can be used ({reasons}), so it cannot be mixed with the other sources",
                where=f"source {part.source}",
                mend="leave this source out",
            )
    for part, amount in zip(parts, mixture(available, [weight or 1.0 for weight in weights]), strict=True):
        chosen[part.members] = lowest_of_both_sides(evaluated[part.members], positions[part.members], amount)
    return chosen


def _numbered_lines(
    intake: Intake, chosen: Mask, evaluated: Mask, over_weight: DropTable
) -> Iterator[tuple[int, bytes]]:
    number = 0
    for line, taken, on_eval in zip(intake.spool.lines(), chosen, evaluated, strict=True):
        if taken:
            yield number, numbered(number, "eval" if on_eval else "train", line)
            number += 1
        elif over_weight.wants_name(_OVER_WEIGHT):
            over_weight.add(_OVER_WEIGHT, read_record(line)["source_id"])


def _selection(
    folder: Path,
    written: int,
    intake: Intake,
    parts: list[_Part],
    chosen: Mask,
    evaluated: Mask,
    over_weight: DropTable,
) -> Selection:
    """Return the record of the chosen documents; ``parts`` includes the holdout."""
    counts = [part.counts(chosen) for part in parts]
    dropped = DropTable()
    for part, counted in zip(parts, counts, strict=True):
        dropped.update(counted.dropped, part.dropped.names, part.dropped.kinds)
    dropped.update({}, over_weight.names, {})
    on_eval = int(evaluated[chosen].sum())
    return Selection(
        folder=folder,
        count=written,
        documents={"train": written - on_eval, "eval": on_eval},
        read=sum(part.read for part in counts),
        dropped=+dropped.counts,
        dropped_names=dropped.names,
        unread_kinds=dropped.kinds,
        scripts=intake.census.documents_by_script(chosen),
        characters=intake.census.characters_by_script(),
        sources=counts,
    )
