"""A finished run's ``summary.json``, and its table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.run_summary import (
    BenchmarkRun,
    BenchmarkSummary,
    GateSummary,
    ResultPaths,
    RunSummary,
)
from components.shared.errors import without_passwords

_VERDICT_FIELDS = set(GateSummary.model_fields) - {"decision"}


def build_summary(
    folder: Path, run_id: str, seconds: dict[str, float], seconds_total: float, memory: dict[str, int]
) -> RunSummary:
    """Collect a run's figures from the steps' files in ``folder``."""
    report = EvaluationReport.read(folder / "evaluation")
    benchmark = BenchmarkReport.read(folder / "benchmark") if (folder / "benchmark").is_dir() else None
    manifest = read_manifest(folder / "dataset")
    verdict = GateVerdict.read(folder / "gate")
    paths = ResultPaths(package=_package(folder) if verdict.promoted else None)
    return RunSummary(
        run_id=run_id,
        rows=report.rows,
        comparison=report.comparison("base"),
        gate=GateSummary(decision=verdict.decision, **verdict.model_dump(include=_VERDICT_FIELDS)),
        benchmark=_benchmark(benchmark) if benchmark else None,
        paths=paths if benchmark else paths.model_copy(update={"benchmark": None}),
        seconds_per_step={step: round(value, 3) for step, value in seconds.items()},
        seconds_total=round(seconds_total, 3),
        peak_memory_bytes=memory,
        dataset_digest=manifest.digest,
        source_digest=manifest.source_digest,
    )


def models_table(rows: Sequence[ReportRow]) -> Table:
    """Return the table of the evaluation's rows: base, adapter, and other models that read the same pages."""
    table = Table(title="held-out pages", title_justify="left")
    table.add_column("model")
    for name in ("CER", "95 % interval", "WER", "ROUGE-L", "loop rate", "pages/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        interval = row.cer_interval
        table.add_row(
            row.name,
            f"{row.cer:.2%}",
            f"{interval[0]:.1%} – {interval[1]:.1%}" if interval else "–",
            f"{row.wer:.2%}",
            f"{row.rougeL:.3f}",
            f"{row.loop_rate:.2%}",
            f"{row.pages_per_second:.2f}",
        )
    return table


def print_summary(summary: RunSummary, folder: Path, tracking_uri: str, console: Console) -> None:
    """Print the table of models, the benchmark, the verdict, the paths of the results, and each step's time."""
    console.print(models_table(summary.rows))
    gate, paths = summary.gate, summary.paths
    places = {"package": folder / paths.package} if paths.package else {}
    places |= {"report": folder / paths.report}
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in summary.seconds_per_step.items())
    total = f"{summary.seconds_total:.1f} s ({times}; the rest is starting the steps' processes)"
    lines = [
        *_benchmark_lines(summary.benchmark),
        f"{gate.decision + ':':<14}{gate.reason}",
        *(f"{name + ':':<14}{place}" for name, place in places.items()),
        f"{'MLflow store:':<14}{without_passwords(tracking_uri)}",
        f"{'run folder:':<14}{folder}",
        f"{'wall time:':<14}{total}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _benchmark(report: BenchmarkReport) -> BenchmarkSummary:
    fields = set(BenchmarkRun.model_fields)
    runs = [BenchmarkRun(**run.model_dump(include=fields)) for run in report.measurements]
    return BenchmarkSummary(runs=runs, ratios=report.ratios)


def _benchmark_lines(benchmark: BenchmarkSummary | None) -> list[str]:
    if benchmark is None:
        return [f"{'benchmark:':<14}skipped"]
    runs = [
        f"{run.contender} {run.median_step_seconds:.3f} s/step"
        if run.median_step_seconds is not None
        else f"{run.contender} {run.status} ({run.reason})"
        for run in benchmark.runs
    ]
    ratios = [
        f"{ratio.formula}, {ratio.quantity}: {ratio.median:.2f} ({ratio.lowest:.2f} – {ratio.highest:.2f})"
        for ratio in benchmark.ratios
    ]
    return [f"{'benchmark:':<14}{'; '.join(runs)}", *(f"{'':<14}{ratio}" for ratio in ratios)]


def _package(folder: Path) -> str:
    (archive,) = (folder / "package").glob("*.zip")
    return archive.relative_to(folder).as_posix()
