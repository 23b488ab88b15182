"""The gate step's whole interface."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.shared.programs.step_config import Seed, StepConfig
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS


class GateConfig(StepConfig):
    """Decide from an evaluation whether the new adapter replaces the champion, or the base where there is none."""

    evaluation_dir: Path
    """folder made by the evaluate step; only report.json and samples.parquet are read"""
    output_dir: Path
    """folder to make; gets verdict.json and verdict.md"""
    metric: Literal["cer", "wer"] = "cer"
    """the error rate that must fall: cer (characters) or wer (words)"""
    min_improvement: float = Field(default=0.0, lt=1, allow_inf_nan=False)
    """promote only if the lower bound of the improvement's 95 % interval is above this; the improvement is the
    reference's error rate minus the adapter's, 0.01 is one point; a negative value tolerates that much worsening"""
    min_documents: int = Field(default=TELLING_DOCUMENTS, ge=2)
    """promote only if pages of at least this many documents were read; with fewer the interval is too narrow"""
    max_loop_rate_increase: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """promote only if the share of pages that end in a repetition loop grew by no more than this, and not significantly
    (its 95 % interval includes 0); 1 switches this rule off"""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """bootstrap resamples of the documents; with the evaluation's number and seed, the report's own intervals"""
    seed: Seed = 0
    """seed of the bootstrap"""
