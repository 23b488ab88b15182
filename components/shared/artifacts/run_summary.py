"""``summary.json``: the figures of a finished ``deepsynth run``; it is written last."""

from typing import ClassVar, Literal

from components.shared.artifacts.benchmark_report import Ratio
from components.shared.artifacts.evaluation_report import ReportRow, RowComparison
from components.shared.artifacts.step_file import FileContent, StepFile
from components.shared.programs.probe_settings import Contender
from components.shared.scoring.paired_comparison import Interval


class GateSummary(FileContent):
    """The gate's decision; the fields are those of ``verdict.json``."""

    decision: Literal["promoted", "not promoted"]
    promoted: bool
    reason: str
    reference: Literal["champion", "base"]
    metric: Literal["cer", "wer"]
    improvement: float
    improvement_interval: Interval | None
    min_improvement: float
    min_documents: int
    loop_rate_improvement: float
    max_loop_rate_increase: float


class BenchmarkRun(FileContent):
    """One run of one trainer."""

    contender: Contender
    repeat: int
    status: Literal["ok", "skipped", "failed"]
    reason: str | None
    median_step_seconds: float | None


class BenchmarkSummary(FileContent):
    """The benchmark's runs and ratios."""

    runs: list[BenchmarkRun]
    ratios: list[Ratio]


class ResultPaths(FileContent):
    """Where the results are, relative to the run's folder."""

    package: str | None = None
    """None if the gate did not promote the adapter"""
    verdict: str = "gate/verdict.md"
    report: str = "evaluation/report.html"
    benchmark: str | None = "benchmark/benchmark.html"
    """None if the benchmark was skipped"""
    dataset: str = "dataset"
    adapter: str = "adapter"
    log: str = "pipeline.log"
    config: str = "config.yaml"


class RunSummary(StepFile):
    """A finished run; times are in seconds, memory in bytes."""

    FILE: ClassVar[str] = "summary.json"
    MADE_BY: ClassVar[str] = "deepsynth run"

    schema_version: Literal[2] = 2
    run_id: str
    rows: list[ReportRow]
    """the evaluation's rows"""
    comparison: RowComparison | None
    """the adapter against the base"""
    gate: GateSummary
    benchmark: BenchmarkSummary | None
    """None if it was skipped"""
    paths: ResultPaths
    seconds_per_step: dict[str, float]
    seconds_total: float
    peak_memory_bytes: dict[str, int]
    """``all_processes`` at once, and the ``largest_process``"""
    dataset_digest: str
    source_digest: str

    @classmethod
    def _maker(cls) -> str:
        return cls.MADE_BY
