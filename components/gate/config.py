"""The gate step's whole interface."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.shared.programs.step_config import StepConfig
from components.shared.scoring.statistics import TELLING_DOCUMENTS


class GateConfig(StepConfig):
    """Decide from an evaluation whether the new adapter takes the place of the champion, or of the base."""

    evaluation_dir: Path
    """folder made by the evaluate step; report.json and samples.parquet are read, nothing else"""
    output_dir: Path
    """folder to make; gets verdict.json and verdict.md"""
    metric: Literal["cer", "wer"] = "cer"
    """the error rate that must fall: of characters or of words"""
    min_improvement: float = Field(default=0.0, lt=1, allow_inf_nan=False)
    """promote only if the lower bound of the improvement's 95 % interval is above this; the improvement is the
    reference's error rate less the adapter's, 0.01 is one point; below 0: that much worse is let pass"""
    min_documents: int = Field(default=TELLING_DOCUMENTS, ge=2)
    """promote only if pages of at least so many documents were read; the interval of fewer is too narrow"""
    max_loop_rate_increase: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """promote only if the share of pages that end in a repetition loop grew by no more than this, and if what it grew
    by is not beyond chance (lower bound of its 95 % interval above 0); 1 lets everything pass"""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """resamples of the documents behind the intervals; with the evaluation's number and seed, the report's interval"""
    seed: int = 0
    """seed of the resamples"""
