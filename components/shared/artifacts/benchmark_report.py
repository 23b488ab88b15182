"""``benchmark.json``: what each trainer measured on the same data, and their ratios."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from components.shared.artifacts.step_file import FileContent, StepFile
from components.shared.artifacts.training_record import PeakMemory
from components.shared.programs.probe_settings import Contender


class ProbeResult(FileContent, extra="allow"):
    """The raw result of one probe; its figures depend on the probe and stand beside these fields."""

    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    """why there are no figures"""

    def figure(self, name: str) -> Any:
        """Return one of the probe's own figures; None where it has none of this name."""
        return (self.model_extra or {}).get(name)


class Measurement(FileContent):
    """One run of one contender; the figures are None unless ``status`` is ``ok``."""

    contender: Contender
    repeat: int
    status: Literal["ok", "skipped", "failed"]
    reason: str | None = None
    """why it was skipped or failed, in words"""
    device: str | None = None
    median_step_seconds: float | None = None
    """median over the steady steps, those after the warm-up"""
    samples_per_second: float | None = None
    """pages of the steady steps divided by their seconds"""
    tokens_per_second: float | None = None
    data_wait_share: float | None = None
    """share of the time, steady steps included, that passed between steps while their pages were not ready"""
    startup_seconds: float | None = None
    """the process's wall time without the steady steps: imports, model, warm-up steps, saving"""
    compile_seconds: float | None = None
    """what the warm-up steps took beyond as many steady steps: compilation, memory allocation, cold caches"""
    peak_memory_bytes: PeakMemory | None = None
    """while training"""
    loading_peak_memory_bytes: PeakMemory | None = None
    """while loading, before the first step"""
    trainable_parameters: int | None = None
    step_seconds: list[float] | None = None
    losses: list[float] | None = None
    tokens_per_step: list[int] | None = None
    details: dict[str, Any] | None = None
    """attention, experts' kernels, and the frozen weights by number format, as the backend reports them"""
    vision_features: dict[str, float] | None = None
    """with ``vision_features_dir``: the pass that computes the features before the first step, as the train step
    reports it; its ``seconds`` are part of ``startup_seconds`` and of no step"""
    cer: float | None = None
    """corpus CER on the held-out pages after ``max_steps``, read in the contender's own number format; first repeat"""
    generated_tokens_per_second: list[float] | None = None
    """one value per ``generation_repeats``; first repeat"""
    generated_pages_per_second: list[float] | None = None
    graphed_tokens_per_second: list[float] | None = None
    """the same with recorded steps (``components.shared.reading.graphed_decoding``), on a GPU"""
    graphed_pages_per_second: list[float] | None = None
    first_token_seconds: list[float] | None = None
    """of one page, its picture decoded but not yet preprocessed"""
    largest_batch: int | None = None
    """pages of one step that fit ``memory_cap_gib``, all like the one with the longest label; 0: not even one"""
    largest_batch_samples_per_second: float | None = None
    longest_context: int | None = None
    """tokens of one page that fit ``memory_cap_gib``; 0: not even the picture and a few words"""
    probes: dict[str, ProbeResult] = Field(default_factory=dict)
    """the raw results behind the fields from ``cer`` on: reading, generation, largest_batch and longest_context"""


class Spread(FileContent):
    """Values of one quantity: over the repeats, and over the repetitions within a repeat where there are any."""

    median: float
    lowest: float
    highest: float
    values: list[float]


class Ratio(Spread):
    """One quantity's ratio of two contenders, one value per pair of runs; above 1, Unsloth is the better one."""

    quantity: str
    baseline: Contender
    formula: str
    """such as ``standard / unsloth``"""


class ContenderRow(FileContent):
    """One contender over all of its repeats."""

    contender: Contender
    status: Literal["ok", "skipped", "failed"]
    """``ok`` where at least one repeat succeeded"""
    reason: str | None = None
    runs: int
    """repeats that succeeded"""
    figures: dict[str, Spread]
    """by quantity, those that were measured"""
    missing: dict[str, str]
    """probe -> why there is no figure"""


class BenchmarkReport(StepFile):
    """The comparison of the trainers."""

    FILE: ClassVar[str] = "benchmark.json"
    MADE_BY: ClassVar[str] = "benchmark"

    schema_version: Literal[3] = 3
    config: dict[str, Any]
    """all settings of the benchmark step, without the paths of its machine"""
    dataset_digest: str
    versions: dict[str, str]
    contenders: list[ContenderRow]
    measurements: list[Measurement]
    ratios: list[Ratio]
    """empty unless two contenders ran"""
    notes: list[str]
    """what a reader must know before quoting a ratio"""
