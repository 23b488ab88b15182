"""The figures of a pipeline run on its MLflow parent: MLflow's table and charts compare runs by them.

Names have no spaces and no slashes, so that MLflow's searches take them as they are. The bounds of an interval end
in ``_low`` and ``_high`` (95 %). A positive improvement means that the adapter is better.
"""

from statistics import median

from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.scoring.paired_comparison import Interval

READERS = ("adapter", "base", "champion")
ERRORS = ("cer", "wer", "rougeL")
"""Figures of a reader that have an interval."""
OTHER_FIGURES = ("bleu", "loop_rate", "pages_per_second")


def of_evaluation(report: EvaluationReport) -> dict[str, float]:
    """Return ``adapter_cer``, ``adapter_cer_low``, ..., for adapter, base and champion as far as they were read."""
    found: dict[str, float] = {}
    for row in report.rows:
        if row.name not in READERS:
            continue
        for name in ERRORS:
            found[f"{row.name}_{name}"] = getattr(row, name)
            found |= bounds(f"{row.name}_{name}", getattr(row, f"{name}_interval"))
        found |= {f"{row.name}_{name}": getattr(row, name) for name in OTHER_FIGURES}
    return found


def of_verdict(verdict: GateVerdict) -> dict[str, float]:
    """Return the difference to the gate's reference, e.g. ``cer_improvement`` with its bounds."""
    name = f"{verdict.metric}_improvement"
    return {name: verdict.improvement} | bounds(name, verdict.improvement_interval)


def tags_of_verdict(verdict: GateVerdict) -> dict[str, str]:
    """Return the decision, its reason, and the row that the adapter was compared with."""
    return {"gate": verdict.decision, "gate.reason": verdict.reason, "gate.reference": verdict.reference}


def of_training(record: TrainingRecord) -> dict[str, float]:
    """Return seconds, samples per second and peak memory (bytes) of a training."""
    seconds = sum(record.step_seconds) + sum(record.data_wait_seconds)
    found = {"train_steps": float(record.steps), "train_seconds": seconds}
    if seconds:
        found["train_samples_per_second"] = sum(record.samples_per_step) / seconds
    if record.step_seconds:
        found["train_step_seconds"] = median(record.step_seconds)
    if record.losses:
        found["train_loss"] = record.losses[-1]
    peaks = {"device": record.peak_memory_bytes.reserved, "resident": record.peak_memory_bytes.resident}
    return found | {f"train_peak_{kind}_bytes": float(peak) for kind, peak in peaks.items() if peak is not None}


def of_benchmark(report: BenchmarkReport) -> dict[str, float]:
    """Return the ratios of trainers, e.g. ``benchmark_samples_per_second_ratio_to_standard``."""
    return {f"benchmark_{one.quantity}_ratio_to_{one.baseline}".replace(" ", "_"): one.median for one in report.ratios}


def bounds(name: str, interval: Interval | None) -> dict[str, float]:
    """Return an interval's bounds by name; nothing where there is no interval."""
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]} if interval else {}
