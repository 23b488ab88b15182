"""What the gate reads from an evaluation: both models' counts on the same pages."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.artifacts.evaluation_report import AdapterReader, BaseReader, ChampionReader, EvaluationReport
from components.shared.artifacts.gate_verdict import Metric, Reference
from components.shared.errors import UserError

CHALLENGER = "adapter"
_SAMPLES = "samples.parquet"
_IS_TEXT, _IS_COUNT = pa.types.is_string, pa.types.is_integer
# the types of the columns that are read: model, key, source_id, edits, length, loop
_TYPES = (_IS_TEXT, _IS_TEXT, _IS_TEXT, _IS_COUNT, _IS_COUNT, pa.types.is_boolean)
_COUNTS = {"cer": ("edits", "reference_length"), "wer": ("word_edits", "reference_words")}
_MEND = "run the evaluate step again"
_MOST_NAMED = 5


@dataclass(frozen=True)
class PairedPages:
    """The challenger's and the reference's counts, page by page; all lists have one entry per page.

    Attributes:
        where: the evaluation's folder.
        reference: the champion, or the base where there is no champion.
        source_ids: each page's document.
        lengths: characters or words of each label.
        challenger_edits: edits (characters or words) that turn the prediction into the label.
        adapter: what the report says about the adapter.
        reference_model: what it says about the reference.
        report: the evaluation's report.json.
    """

    where: str
    reference: Reference
    source_ids: list[str]
    lengths: list[float]
    challenger_edits: list[float]
    reference_edits: list[float]
    challenger_loops: list[bool]
    reference_loops: list[bool]
    adapter: AdapterReader
    reference_model: ChampionReader | BaseReader
    report: EvaluationReport


@dataclass(frozen=True)
class _Page:
    source_id: str
    edits: int
    length: int
    loop: bool


def read_pages(folder: Path, metric: Metric) -> PairedPages:
    """Read the adapter's row and the champion's, or the base's where there is no champion.

    Raises:
        UserError: a file is missing or unreadable; a model's row is missing; the two did not read the same pages with
            the same labels; the normalisation of report and samples differs; or no label holds any text.
    """
    report, adapter = _report(folder)
    models = _pages_by_model(folder / _SAMPLES, metric, report)
    where = str(folder / _SAMPLES)
    if CHALLENGER not in models:
        raise UserError("there is no row of the adapter", where=where, mend="evaluate with an adapter_dir")
    reference: Reference = "champion" if "champion" in models else "base"
    if reference not in models:
        raise UserError("there is no row of a champion, nor of the base", where=where, mend=_MEND)
    if (reference == "champion") != (report.models.champion is not None):
        alone = "has a row that the report does not name" if reference == "champion" else "is named but has no row"
        raise UserError(f"report and samples disagree: the champion {alone}", where=where, mend=_MEND)
    challenger, other = models[CHALLENGER], models[reference]
    _check_same_pages(challenger, other, reference, where)
    keys = sorted(challenger)
    if not any(challenger[key].length for key in keys):
        raise UserError("no label holds any text, so there is no error rate", where=where, mend=_MEND)
    return PairedPages(
        where=str(folder),
        reference=reference,
        source_ids=[challenger[key].source_id for key in keys],
        lengths=[float(challenger[key].length) for key in keys],
        challenger_edits=[float(challenger[key].edits) for key in keys],
        reference_edits=[float(other[key].edits) for key in keys],
        challenger_loops=[challenger[key].loop for key in keys],
        reference_loops=[other[key].loop for key in keys],
        adapter=adapter,
        reference_model=report.models.champion or report.models.base,
        report=report,
    )


def _report(folder: Path) -> tuple[EvaluationReport, AdapterReader]:
    report = EvaluationReport.read(folder)
    where = str(folder / report.FILE)
    if report.models.adapter is None:
        raise UserError("the evaluation had no adapter", where=where, mend="evaluate with an adapter_dir")
    if report.dataset.split == "train":
        mend = "evaluate the split eval: reading its own training pages well is no reason to promote an adapter"
        raise UserError("the pages are the training's own (split 'train')", where=where, mend=mend)
    return report, report.models.adapter


def _pages_by_model(path: Path, metric: Metric, report: EvaluationReport) -> dict[str, dict[str, _Page]]:
    edits, length = _COUNTS[metric]
    columns = ["model", "key", "source_id", edits, length, "loop"]
    try:
        schema = pq.read_schema(path)
        known = [name for name in columns if name in schema.names]
        rows = pq.read_table(path, columns=known).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend=_MEND) from error
    if missing := sorted(set(columns) - set(schema.names)):
        raise UserError(f"has no columns {', '.join(missing)}", where=str(path), mend=_MEND)
    if odd := [name for name, fits in zip(columns, _TYPES, strict=True) if not fits(schema.field(name).type)]:
        raise UserError(f"the columns {', '.join(odd)} are of another type", where=str(path), mend=_MEND)
    _check_normalization((schema.metadata or {}).get(b"normalization", b"").decode(), report, path)
    models: dict[str, dict[str, _Page]] = {}
    for row in rows:
        if any(row[name] is None for name in columns):
            raise UserError(f"page {row['key']!r} of {row['model']!r} lacks a count", where=str(path), mend=_MEND)
        pages = models.setdefault(row["model"], {})
        if row["key"] in pages:
            raise UserError(f"page {row['key']!r} of {row['model']!r} is there twice", where=str(path), mend=_MEND)
        pages[row["key"]] = _Page(row["source_id"], row[edits], row[length], row["loop"])
    return models


def _check_normalization(used: str, report: EvaluationReport, path: Path) -> None:
    if used != report.normalization:
        raise UserError(
            f"the counts are over texts normalised by {used or 'an unnamed profile'!r}, the report says "
            f"{report.normalization!r}",
            where=str(path),
            mend="use the report and the samples of one evaluation",
        )


def _check_same_pages(
    challenger: dict[str, _Page], reference: dict[str, _Page], reference_name: str, where: str
) -> None:
    mend = "evaluate both on the same pages of one dataset"
    if not challenger.keys() & reference.keys():
        raise UserError(f"adapter and {reference_name} have no pages in common", where=where, mend=mend)
    # A page that is missing may be the one that the model failed on.
    if alone := sorted(challenger.keys() ^ reference.keys()):
        named = ", ".join(alone[:_MOST_NAMED]) + (", ..." if len(alone) > _MOST_NAMED else "")
        raise UserError(
            f"only one of adapter and {reference_name} read {len(alone)} of the pages ({named})", where=where, mend=mend
        )
    for key, page in challenger.items():
        other = reference[key]
        if (page.length, page.source_id) != (other.length, other.source_id):
            raise UserError(f"page {key!r} has another label for the {reference_name}", where=where, mend=mend)
