"""A finished run's ``summary.json``, and its table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.errors import without_passwords

SUMMARY_FILE = "summary.json"
SCHEMA_VERSION = 2
_VERDICT_FIELDS = {
    "promoted",
    "reason",
    "reference",
    "metric",
    "improvement",
    "improvement_interval",
    "min_improvement",
    "min_documents",
    "loop_rate_improvement",
    "max_loop_rate_increase",
}


def build_summary(folder: Path, run_id: str, seconds: dict[str, float], memory: dict[str, int]) -> dict[str, Any]:
    """Collect a run's figures from the reports in ``folder``; paths are relative to it, times in seconds.

    A run that the gate did not promote has no path ``package``.
    """
    report = EvaluationReport.read(folder / "evaluation")
    benchmark = _json(folder / "benchmark" / "benchmark.json")
    manifest = _json(folder / "dataset" / "manifest.json")
    verdict = GateVerdict.read(folder / "gate")
    to_base = report.comparison("base")
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "rows": [row.model_dump(mode="json") for row in report.rows],
        "comparison": to_base.model_dump(mode="json") if to_base else None,
        "gate": {"decision": verdict.decision} | verdict.model_dump(mode="json", include=_VERDICT_FIELDS),
        "benchmark": {
            "runs": [
                {name: run[name] for name in ("contender", "repeat", "status", "reason", "median_step_seconds")}
                for run in benchmark["measurements"]
            ],
            "ratios": benchmark["ratios"],
        },
        "paths": {
            **({"package": _package(folder)} if verdict.promoted else {}),
            "verdict": "gate/verdict.md",
            "report": "evaluation/report.html",
            "benchmark": "benchmark/benchmark.html",
            "dataset": "dataset",
            "adapter": "adapter",
            "log": "pipeline.log",
            "config": "config.yaml",
        },
        "seconds_per_step": {step: round(value, 3) for step, value in seconds.items()},
        "peak_memory_bytes": memory,
        "dataset_digest": manifest["digest"],
        "source_digest": manifest["source_digest"],
    }


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


def print_summary(summary: dict[str, Any], folder: Path, tracking_uri: str, console: Console) -> None:
    """Print the table of models, the benchmark, the verdict, the paths of the results, and each step's time."""
    console.print(models_table([ReportRow.model_validate(row) for row in summary["rows"]]))
    for line in _benchmark_lines(summary["benchmark"]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    gate = summary["gate"]
    console.print(f"{gate['decision'] + ':':<14}{gate['reason']}", markup=False, highlight=False, soft_wrap=True)
    places = {name: folder / summary["paths"][name] for name in ("package", "report") if name in summary["paths"]}
    for name, place in {**places, "MLflow store": without_passwords(tracking_uri), "run folder": folder}.items():
        console.print(f"{name + ':':<14}{place}", markup=False, highlight=False, soft_wrap=True)
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in summary["seconds_per_step"].items())
    total = f"{summary['seconds_total']:.1f} s ({times}; the rest is starting the steps' processes)"
    console.print(f"{'wall time:':<14}{total}", markup=False, highlight=False, soft_wrap=True)


def _benchmark_lines(benchmark: dict[str, Any]) -> list[str]:
    runs = [
        f"{run['contender']} {run['median_step_seconds']:.3f} s/step"
        if run["status"] == "ok"
        else f"{run['contender']} {run['status']} ({run['reason']})"
        for run in benchmark["runs"]
    ]
    ratios = [
        f"{ratio['formula']}, {ratio['quantity']}: {ratio['median']:.2f} "
        f"({ratio['lowest']:.2f} – {ratio['highest']:.2f})"
        for ratio in benchmark["ratios"]
    ]
    return [f"{'benchmark:':<14}{'; '.join(runs)}", *(f"{'':<14}{ratio}" for ratio in ratios)]


def _package(folder: Path) -> str:
    (archive,) = (folder / "package").glob("*.zip")
    return archive.relative_to(folder).as_posix()


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
