"""What the gate reads of an evaluation: both models' counts on the same pages."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.errors import UserError

CHALLENGER = "adapter"
CHAMPION = "champion"
BASE = "base"
_REPORT = "report.json"
_SAMPLES = "samples.parquet"
_IS_TEXT, _IS_COUNT = pa.types.is_string, pa.types.is_integer
# Of the columns that are read: model, key, source_id, edits, length, loop.
_TYPES = (_IS_TEXT, _IS_TEXT, _IS_TEXT, _IS_COUNT, _IS_COUNT, pa.types.is_boolean)
_COUNTS = {"cer": ("edits", "reference_length"), "wer": ("word_edits", "reference_words")}
_MEND = "run the evaluate step again"
_MOST_NAMED = 5


@dataclass(frozen=True)
class PairedPages:
    """The challenger's and the reference's counts, page by page; all lists have one entry per page.

    Attributes:
        where: the evaluation's folder.
        reference: champion, or base where there is no champion.
        source_ids: the page's document.
        challenger_edits: characters or words to change until the prediction is the label.
        lengths: characters or words of the label.
        report: the evaluation's report.json.
    """

    where: str
    reference: Literal["champion", "base"]
    source_ids: list[str]
    lengths: list[float]
    challenger_edits: list[float]
    reference_edits: list[float]
    challenger_loops: list[bool]
    reference_loops: list[bool]
    report: dict[str, Any]


@dataclass(frozen=True)
class _Page:
    source_id: str
    edits: int
    length: int
    loop: bool


def read_pages(folder: Path, metric: Literal["cer", "wer"]) -> PairedPages:
    """Read the adapter's row and the champion's, or the base's where there is no champion.

    Raises:
        UserError: a file is missing or unreadable; a model's row is missing; the two did not read the same pages with
            the same labels; the normalisation of report and samples differs; or no label holds any text.
    """
    report = _report(folder / _REPORT)
    models = _pages_by_model(folder / _SAMPLES, metric, report)
    where = str(folder / _SAMPLES)
    if CHALLENGER not in models:
        raise UserError("there is no adapter's row", where=where, mend="evaluate with an adapter_dir")
    reference: Literal["champion", "base"] = "champion" if CHAMPION in models else "base"
    if reference not in models:
        raise UserError("there is neither a champion's row nor the base's", where=where, mend=_MEND)
    if reference == BASE and report["models"].get(CHAMPION):
        raise UserError("the report names a champion that has no row", where=where, mend=_MEND)
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
        report=report,
    )


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["models"][CHALLENGER] is None:
            raise UserError("the evaluation had no adapter", where=str(path), mend="evaluate with an adapter_dir")
        # What the verdict says of the evaluation; a report without it is none.
        told = [report["normalization"], report["dataset"]["digest"], report["models"][CHALLENGER]["sha256"]]
        if not all(isinstance(text, str) for text in told):
            raise ValueError("normalization, digest or sha256 is not a text")
        seen = report["dataset"].get("split") == "train"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not an evaluation's report ({type(error).__name__}: {error})"
        raise UserError(reason, where=str(path), mend=_MEND) from error
    if seen:
        mend = "evaluate the split eval: how the adapter reads the pages of its training is no ground to promote it"
        raise UserError("the pages are the training's own (split 'train')", where=str(path), mend=mend)
    return dict(report)


def _pages_by_model(path: Path, metric: Literal["cer", "wer"], report: dict[str, Any]) -> dict[str, dict[str, _Page]]:
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


def _check_normalization(used: str, report: dict[str, Any], path: Path) -> None:
    if used != report["normalization"]:
        raise UserError(
            f"the counts are over texts normalised by {used or 'an unnamed profile'!r}, the report says "
            f"{report['normalization']!r}",
            where=str(path),
            mend="use the report and the samples of one evaluation",
        )


def _check_same_pages(
    challenger: dict[str, _Page], reference: dict[str, _Page], reference_name: str, where: str
) -> None:
    mend = "evaluate both on the same pages of one dataset"
    if not challenger.keys() & reference.keys():
        raise UserError(f"adapter and {reference_name} have no pages in common", where=where, mend=mend)
    # A page that is left out of one side is as likely as not the one that it failed on.
    if alone := sorted(challenger.keys() ^ reference.keys()):
        named = ", ".join(alone[:_MOST_NAMED]) + (", ..." if len(alone) > _MOST_NAMED else "")
        raise UserError(
            f"only one of adapter and {reference_name} read {len(alone)} of the pages ({named})", where=where, mend=mend
        )
    for key, page in challenger.items():
        other = reference[key]
        if (page.length, page.source_id) != (other.length, other.source_id):
            raise UserError(f"page {key!r} has another label for the {reference_name}", where=where, mend=mend)
