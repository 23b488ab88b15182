"""The contenders in MLflow: one run each, nested under the benchmark's run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.shared.artifacts.benchmark_report import BenchmarkReport, ContenderRow, Measurement
from components.shared.tracking.step_run import TrackedRun, step_run

_ATTACH = "MLFLOW_RUN_ID"


def log_contenders(tracked: TrackedRun, report: BenchmarkReport, parameters: dict[str, Any]) -> None:
    """Log each contender's medians, and the losses and step times of its first repeat, as a separate run."""
    if tracked.run_id is None:
        return
    with _attached_to(tracked.run_id):
        for row in report.contenders:
            runs = [run for run in report.measurements if run.contender == row.contender]
            _log_contender(row, runs, parameters)


def _log_contender(row: ContenderRow, runs: list[Measurement], parameters: dict[str, Any]) -> None:
    settings = {**parameters, "contenders": [row.contender]}
    with step_run(f"benchmark-{row.contender}", settings) as nested:
        nested.set_tags({"backend": row.contender, "status": row.status, "reason": row.reason or ""})
        nested.log_metrics({name: spread.median for name, spread in row.figures.items()})
        first = next((run for run in runs if run.status == "ok"), None)
        for step, loss in enumerate((first and first.losses) or [], start=1):
            nested.log_metrics({"loss": loss}, step=step)
        for step, seconds in enumerate((first and first.step_seconds) or [], start=1):
            nested.log_metrics({"step_seconds": seconds}, step=step)


@contextmanager
def _attached_to(run_id: str) -> Iterator[None]:
    """Make ``step_run`` nest its run under ``run_id``."""
    before = os.environ.get(_ATTACH)
    os.environ[_ATTACH] = run_id
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ATTACH]
        else:
            os.environ[_ATTACH] = before
