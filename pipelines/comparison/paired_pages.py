"""A paired comparison: the adapters of two runs over the same pages, with an interval of the difference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import UserError
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS, Interval
from components.shared.scoring.sign_test import SignTest, sign_test
from components.shared.scoring.statistics import DocumentBootstrap
from pipelines.comparison.compared_run import ComparedRun

RESAMPLES = 10_000
_SEED = 0
_MODEL = "adapter"
_COLUMNS = {"CER": ("edits", "reference_length"), "WER": ("word_edits", "reference_words"), "loop rate": ("loop", None)}
_READ = ("model", "key", "source_id", "text", "edits", "reference_length", "word_edits", "reference_words", "loop")


@dataclass(frozen=True)
class PairedDifference:
    """One rate of two adapters over the same pages; the first run is the reference, the other one the candidate.

    Attributes:
        difference: the first run's rate minus the other's; positive means that the other run's adapter is better.
        interval: its 95 % interval over documents; None with fewer than two documents.
        documents: those with pages that both adapters read.
    """

    metric: str
    first: float
    other: float
    difference: float
    interval: Interval | None
    documents: int

    def finding(self, first: str, other: str) -> str:
        """Return in words which run's adapter is better, or that the difference may be chance."""
        if self.difference == 0:
            return f"equal: both adapters have the same {self.metric}"
        better = other if self.difference > 0 else first
        points = f"{100 * abs(self.difference):.2f} points"
        if self.interval is None:
            return f"{better}'s {self.metric} is {points} lower; there is no interval with one document"
        if self.documents < TELLING_DOCUMENTS:
            few = f"{self.documents} documents give too narrow an interval ({TELLING_DOCUMENTS} or more are needed)"
            return f"not enough documents: {better}'s {self.metric} is {points} lower, and {few}"
        if self.interval[0] <= 0 <= self.interval[1]:
            return f"not beyond chance: {better}'s {self.metric} is {points} lower, and the interval includes zero"
        return f"{better} is better: its {self.metric} is {points} lower"


@dataclass(frozen=True)
class Pairing:
    """The first run and another one; ``reason`` says why they are not paired, and is None if they are."""

    first: str
    other: str
    reason: str | None = None
    pages: int = 0
    documents: int = 0
    left_out: int = 0
    """pages that only one of the two runs evaluated"""
    differences: tuple[PairedDifference, ...] = ()
    signs: SignTest | None = None
    """pages on which the other run's adapter makes fewer (better) or more (worse) character edits"""


def paired(first: ComparedRun, other: ComparedRun) -> Pairing:
    """Compare the adapters of two runs if they read the same pages.

    Raises:
        UserError: a file of predictions cannot be read.
    """
    if reason := _not_paired(first, other):
        return Pairing(first.name, other.name, reason)
    assert first.samples and other.samples
    mine, theirs = _pages(first.samples), _pages(other.samples)
    keys = sorted(mine.keys() & theirs.keys())
    if not keys:
        return Pairing(first.name, other.name, "they evaluated different pages of the dataset, and share none")
    if any(mine[key]["text"] != theirs[key]["text"] for key in keys):
        return Pairing(
            first.name, other.name, "the labels of their pages differ although the dataset's digest does not"
        )
    bootstrap = DocumentBootstrap([mine[key]["source_id"] for key in keys], RESAMPLES, _SEED)
    edits = {run: [float(pages[key]["edits"]) for key in keys] for run, pages in ((1, mine), (2, theirs))}
    return Pairing(
        first.name,
        other.name,
        pages=len(keys),
        documents=bootstrap.documents,
        left_out=len(mine.keys() ^ theirs.keys()),
        differences=tuple(
            _difference(metric, [mine[key] for key in keys], [theirs[key] for key in keys], bootstrap)
            for metric in _COLUMNS
        ),
        signs=sign_test(edits[2], edits[1]),
    )


def _not_paired(first: ComparedRun, other: ComparedRun) -> str | None:
    for run in (first, other):
        if run.files.report is None or run.samples is None:
            return f"the predictions of {run.name} page by page are missing"
        if run.figures(_MODEL) is None:
            return f"{run.name} evaluated no adapter"
    one, two = [run.files.report for run in (first, other) if run.files.report]
    if one.dataset.digest != two.dataset.digest:
        digests = f"dataset digest {one.dataset.digest[:12]}… against {two.dataset.digest[:12]}…"
        return f"they evaluated different pages ({digests})"
    if one.dataset.split != two.dataset.split:
        return f"they evaluated different splits ({one.dataset.split} against {two.dataset.split})"
    if one.normalization != two.normalization:
        return f"their texts were normalised differently ({one.normalization} against {two.normalization})"
    return None


def _pages(path: Path) -> dict[str, dict[str, Any]]:
    try:
        rows = pq.read_table(path, columns=list(_READ), filters=[("model", "=", _MODEL)]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the predictions cannot be read ({error})", where=str(path)) from error
    return {row["key"]: row for row in rows}


def _difference(
    metric: str, mine: list[dict[str, Any]], theirs: list[dict[str, Any]], bootstrap: DocumentBootstrap
) -> PairedDifference:
    counted, length = _COLUMNS[metric]
    lengths = [float(row[length]) if length else 1.0 for row in mine]
    result = bootstrap.compare([float(row[counted]) for row in mine], [float(row[counted]) for row in theirs], lengths)
    return PairedDifference(
        metric=metric,
        first=result.reference,
        other=result.candidate,
        difference=result.difference,
        interval=result.difference_interval,
        documents=bootstrap.documents,
    )
