"""The benchmark step: run the contenders in turns, compare their measurements, write the report."""

import logging
import math
import time
from pathlib import Path

from components.benchmark.config import BenchmarkConfig
from components.benchmark.contenders.contender import check_train_settings, measure
from components.benchmark.report.comparison import compare
from components.benchmark.report.nested_runs import log_contenders
from components.benchmark.report.page import benchmark_page
from components.shared.artifacts.benchmark_report import BenchmarkReport, Measurement
from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.artifacts.output_folder import finished_folder
from components.shared.errors import UserError
from components.shared.telemetry.progress import track
from components.shared.tracking import headline
from components.shared.tracking.step_run import TrackedRun, step_run
from components.shared.versions import software_versions

log = logging.getLogger(__name__)

PAGE_FILE = "benchmark.html"
LOGS_FOLDER = "logs"


def run(config: BenchmarkConfig) -> BenchmarkReport:
    """Compare the trainers, write ``config.output_dir`` and return its report.

    Raises:
        UserError: the dataset is missing, ``train`` has a wrong setting, the output folder is in use, or no contender
            ran.
    """
    manifest = read_manifest(config.dataset_dir)
    check_train_settings(config)
    parameters = config.model_dump(mode="json", exclude={"dataset_dir", "output_dir"})
    with step_run("benchmark", parameters) as tracked, finished_folder(config.output_dir) as folder:
        tracked.log_dataset(manifest.digest, manifest.sources_name(), "training")
        (folder / LOGS_FOLDER).mkdir()
        comparison = compare(_measured_in_turns(config, folder / LOGS_FOLDER))
        _check_any_ran(comparison.measurements)
        report = BenchmarkReport(
            config=parameters,
            dataset_digest=manifest.digest,
            versions=software_versions(),
            contenders=comparison.contenders,
            measurements=comparison.measurements,
            ratios=comparison.ratios,
            notes=comparison.notes,
        )
        report.write(folder)
        (folder / PAGE_FILE).write_text(benchmark_page(config, report), encoding="utf-8")
        _log_figures(tracked, report, folder)
        log_contenders(tracked, report, parameters)
    return report


def _measured_in_turns(config: BenchmarkConfig, logs: Path) -> list[Measurement]:
    """Run each contender once, then each again, and so on; one that failed in the first round is not run again."""
    deadline = time.monotonic() + 60 * (config.time_limit_minutes or math.inf)
    turns = [(contender, repeat) for repeat in range(1, config.repeats + 1) for contender in config.contenders]
    measurements: list[Measurement] = []
    for contender, repeat in track(turns, "benchmark trainers", len(turns)):
        first = next((run for run in measurements if run.contender == contender), None)
        if first is None or first.status != "failed":
            measurements.append(measure(contender, repeat, config, logs, deadline))
    return measurements


def _check_any_ran(measurements: list[Measurement]) -> None:
    if not any(run.status == "ok" for run in measurements):
        reasons = "; ".join(dict.fromkeys(f"{run.contender} {run.status} ({run.reason})" for run in measurements))
        raise UserError(f"no contender ran: {reasons}", where="benchmark", mend="see to the reasons named here")


def _log_figures(tracked: TrackedRun, report: BenchmarkReport, folder: Path) -> None:
    for row in report.contenders:
        if row.status != "ok":
            log.info("%s: %s, %s", row.contender, row.status, row.reason)
            continue
        tracked.log_metrics({f"{row.contender}/{name}": spread.median for name, spread in row.figures.items()})
        step, pages = row.figures["median_step_seconds"].median, row.figures["samples_per_second"].median
        log.info("%s: %.3f s/step, %.2f pages/s", row.contender, step, pages)
    tracked.log_metrics({f"ratio_to_{ratio.baseline}/{ratio.quantity}": ratio.median for ratio in report.ratios})
    tracked.summarize(headline.of_benchmark(report))
    for path in (folder / BenchmarkReport.FILE, folder / PAGE_FILE):
        tracked.log_artifact(path)
