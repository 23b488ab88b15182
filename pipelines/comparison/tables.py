"""The comparison as tables of text: a row for each quantity, a column for each run."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, get_args

from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.dataset_manifest import DatasetManifest, Split
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.scoring.paired_comparison import Interval
from pipelines.comparison.compared_run import ComparedRun
from pipelines.comparison.loop_intervals import loop_interval

UNKNOWN = "–"
_RATES = {"cer", "wer", "exact_page_rate", "failure_rate", "loop_rate", "truncation_rate"}
_FIGURES = {
    "cer": "CER",
    "wer": "WER",
    "rougeL": "ROUGE-L",
    "chrf": "chrF",
    "bleu": "BLEU",
    "bertscore": "BERTScore",
    "exact_page_rate": "exact pages",
    "loop_rate": "loop rate",
    "truncation_rate": "cut at max_new_tokens",
    "failure_rate": "failed pages",
}
File = TypeVar("File")
_MODELS = ("adapter", "champion", "base", "tesseract", "rapidocr")
_GIB = 2**30
_INTERVALS = "in brackets: 95 % intervals over documents, for the figures that have one"

# Where a run kept its checkpoints says nothing of its result, and a run has that place from where it runs.
_OF_THE_PLACE = {"train.checkpoint_dir"}


def _report(run: ComparedRun) -> EvaluationReport | None:
    return run.files.report


@dataclass(frozen=True)
class Row:
    """One quantity, a cell for each run."""

    label: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether two runs are known to differ here."""
        return len({cell for cell in self.cells if cell != UNKNOWN}) > 1


@dataclass(frozen=True)
class Table:
    """Rows under a title; ``note`` says what is left out or how to read a figure."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


def tables(runs: Sequence[ComparedRun], everything: bool) -> list[Table]:
    """Return all tables; settings, data and versions that are equal are left out unless ``everything`` is wanted."""
    found = [
        _table("Runs", _overview(runs)),
        *(_table(f"Held-out pages: {model}", _figures(runs, model), _INTERVALS) for model in _MODELS),
        _table("Gate", _gate(runs)),
        _differing("Configuration", _configuration(runs), everything),
        _differing("Data", _data(runs), everything),
        _table("Training", _training(runs)),
        _table("Benchmark", _benchmark(runs)),
        _table("Wall time of the steps, s", _seconds(runs)),
        _differing("Versions", _versions(runs), everything),
    ]
    return [table for table in found if table.rows or table.note.startswith("equal")]


def _table(title: str, rows: Iterable[Row], note: str = "") -> Table:
    kept = tuple(row for row in rows if any(cell != UNKNOWN for cell in row.cells))
    return Table(title, kept, note if kept else "")


def _differing(title: str, rows: Iterable[Row], everything: bool) -> Table:
    known = [row for row in rows if any(cell != UNKNOWN for cell in row.cells)]
    kept = tuple(row for row in known if everything or row.differs)
    left_out = len(known) - len(kept)
    return Table(title, kept, f"equal, or unknown for a run: {left_out} (shown with --all)" if left_out else "")


def _overview(runs: Sequence[ComparedRun]) -> list[Row]:
    return [
        _row("read from", runs, lambda run: run.where),
        _row("finished (UTC)", runs, lambda run: run.finished),
        _row("git commit", runs, lambda run: run.versions().get("git_commit", UNKNOWN)[:12]),
        _of_file(runs, _report, "pages evaluated", lambda found: found.dataset.pages),
        _row("missing", runs, lambda run: "; ".join(run.notes) or UNKNOWN),
    ]


def _figures(runs: Sequence[ComparedRun], model: str) -> list[Row]:
    return [_row(label, runs, partial(_figure, model, name)) for name, label in _FIGURES.items()]


def _figure(model: str, name: str, run: ComparedRun) -> str:
    row = run.figures(model)
    value: float | None = getattr(row, name, None)
    if value is None:
        return UNKNOWN
    shown = percent if name in _RATES else _decimal
    interval: Interval | None = getattr(row, f"{name}_interval", None)
    if name == "loop_rate" and run.samples:
        interval = loop_interval(run.samples, model)
    return shown(value) + (f" ({shown(interval[0])} – {shown(interval[1])})" if interval else "")


def _gate(runs: Sequence[ComparedRun]) -> list[Row]:
    def of(label: str, show: Callable[[GateVerdict], Any]) -> Row:
        return _of_file(runs, lambda run: run.files.verdict, label, show)

    return [
        of("decision", lambda found: found.decision),
        of("compared with", lambda found: found.reference),
        of("metric", lambda found: found.metric.upper()),
        of("improvement (points)", lambda found: points(found.improvement, found.improvement_interval)),
        of("least improvement (points)", lambda found: f"{100 * found.min_improvement:.2f}"),
        of(
            "improvement of the loop rate (points)",
            lambda found: points(found.loop_rate_improvement, found.loop_rate_improvement_interval),
        ),
        of("reason", lambda found: found.reason),
    ]


def _configuration(runs: Sequence[ComparedRun]) -> list[Row]:
    def setting(key: str) -> Row:
        return _row(key, runs, lambda run: _setting(run.config[key]))

    return [
        setting(key) for key in dict.fromkeys(key for run in runs for key in run.config) if key not in _OF_THE_PLACE
    ]


def _data(runs: Sequence[ComparedRun]) -> list[Row]:
    def of(label: str, show: Callable[[DatasetManifest], Any]) -> Row:
        return _of_file(runs, lambda run: run.files.manifest, label, show)

    def pages(split: Split) -> Row:
        return of(f"{split} pages", lambda found: found.splits[split].samples)

    def documents(split: Split) -> Row:
        return of(f"{split} documents", lambda found: found.documents[split])

    def dropped(reason: str) -> Row:
        return of(f"dropped: {reason}", lambda found: found.dropped.get(reason, 0))

    return [
        _of_file(runs, _report, "dataset digest", lambda found: found.dataset.digest),
        _of_file(runs, _report, "source digest", lambda found: found.dataset.source_digest),
        *(counted(split) for counted in (pages, documents) for split in get_args(Split)),
        *(dropped(reason) for reason in _keys(run.files.manifest.dropped for run in runs if run.files.manifest)),
        of("text engine", lambda found: found.layout_engine),
    ]


def _training(runs: Sequence[ComparedRun]) -> list[Row]:
    def of(label: str, show: Callable[[TrainingRecord], Any]) -> Row:
        return _of_file(runs, lambda run: run.files.training, label, show)

    def peak(kind: str) -> Row:
        return _row(f"peak memory, {kind}, GiB", runs, lambda run: _peaks(run)[kind])

    return [
        of("base model", lambda found: found.base_model),
        of("backend", lambda found: found.backend),
        of("device", lambda found: found.device),
        of("optimizer steps", lambda found: found.steps),
        of("first loss", lambda found: f"{found.losses[0]:.4f}"),
        of("final loss", lambda found: f"{found.losses[-1]:.4f}"),
        of("median step, s", lambda found: f"{statistics.median(found.step_seconds):.3f}"),
        of("trainable parameters", lambda found: f"{found.trainable_parameters:,}"),
        *(peak(kind) for kind in _keys(_peaks(run) for run in runs)),
    ]


def _peaks(run: ComparedRun) -> dict[str, str]:
    peaks = run.files.training.peak_memory_bytes.model_dump() if run.files.training else {}
    return {kind: f"{value / _GIB:.2f}" for kind, value in peaks.items() if value is not None}


def _benchmark(runs: Sequence[ComparedRun]) -> list[Row]:
    rows: dict[str, list[str]] = {}
    for position, run in enumerate(runs):
        for label, cell in _benchmark_cells(run.files.benchmark):
            rows.setdefault(label, [UNKNOWN] * len(runs))[position] = cell
    return [Row(label, tuple(cells)) for label, cells in rows.items()]


def _benchmark_cells(found: BenchmarkReport | None) -> Iterable[tuple[str, str]]:
    if found is None:
        return
    for row in found.contenders:
        figure = row.figures.get("median_step_seconds")
        yield f"{row.contender}, s/step", f"{figure.median:.3f}" if figure else f"{row.status}: {row.reason}"
    for ratio in found.ratios:
        spread = f" ({ratio.lowest:.2f} – {ratio.highest:.2f})" if ratio.lowest != ratio.highest else ""
        yield f"{ratio.quantity}: {ratio.formula}", f"{ratio.median:.2f}{spread}"


def _seconds(runs: Sequence[ComparedRun]) -> list[Row]:
    def seconds(step: str) -> Row:
        return _row(step, runs, lambda run: f"{run.seconds[step]:.1f}")

    steps = [step for step in _keys(run.seconds for run in runs) if step != "total"]
    return [seconds(step) for step in (*steps, "total")]


def _versions(runs: Sequence[ComparedRun]) -> list[Row]:
    def version(package: str) -> Row:
        return _row(package, runs, lambda run: run.versions()[package])

    return [version(package) for package in _keys(run.versions() for run in runs)]


def _keys(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all mappings, each once, in their order."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _of_file(
    runs: Sequence[ComparedRun], file: Callable[[ComparedRun], File | None], label: str, show: Callable[[File], Any]
) -> Row:
    """Return a row of what a step's file says."""

    def cell(run: ComparedRun) -> Any:
        found = file(run)
        return UNKNOWN if found is None else show(found)

    return _row(label, runs, cell)


def _row(label: str, runs: Sequence[ComparedRun], show: Callable[[ComparedRun], Any]) -> Row:
    """Return a row; a cell is unknown where the run lacks the value."""
    cells = []
    for run in runs:
        try:
            cells.append(str(show(run)))
        except (KeyError, IndexError):
            cells.append(UNKNOWN)
    return Row(label, tuple(cells))


def percent(value: float) -> str:
    """Return a share in percent.

    >>> percent(0.0353)
    '3.53 %'
    """
    return f"{100 * value:.2f} %"


def points(value: float, interval: Interval | Sequence[float] | None = None) -> str:
    """Return a difference of shares in points, with its sign and interval.

    >>> points(0.05, (0.031, 0.072))
    '+5.00 (+3.10 to +7.20)'
    """
    shown = f"{100 * value:+.2f}"
    return f"{shown} ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})" if interval else shown


def _decimal(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
