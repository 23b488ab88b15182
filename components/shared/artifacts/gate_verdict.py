"""``verdict.json``: what the gate decided, by which rules, from which figures."""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

from components.shared.artifacts.evaluation_report import (
    BaseReader,
    ChampionReader,
    ReportRow,
    TrainingDocuments,
)
from components.shared.artifacts.step_file import FileContent, StepFile
from components.shared.scoring.paired_comparison import Interval

Reference = Literal["champion", "base"]
"""The row that the adapter must beat."""
Metric = Literal["cer", "wer"]


class RuleOutcome(FileContent):
    """One of the gate's rules, with its figures in words."""

    rule: Literal["improvement", "loop rate"]
    passed: bool
    finding: str


class GateVerdict(StepFile):
    """The gate's decision; rates are 0 to 1 (an error rate can exceed 1), intervals are 95 % over documents.

    An improvement is the reference's rate minus the challenger's: positive means that the challenger is better. An
    interval is None with fewer than two documents.
    """

    FILE: ClassVar[str] = "verdict.json"
    MADE_BY: ClassVar[str] = "gate"

    schema_version: Literal[2] = 2
    promoted: bool
    reason: str
    """one sentence"""
    rules: list[RuleOutcome]
    challenger: Literal["adapter"] = "adapter"
    reference: Reference
    reference_model: ChampionReader | BaseReader
    """what the evaluation's report says about the reference"""
    metric: Metric
    challenger_error: float
    reference_error: float
    improvement: float
    improvement_interval: Interval | None
    min_improvement: float
    min_documents: int
    challenger_loop_rate: float
    reference_loop_rate: float
    loop_rate_improvement: float
    loop_rate_improvement_interval: Interval | None
    max_loop_rate_increase: float
    pages: int
    documents: int
    confidence: float
    bootstrap_resamples: int
    seed: int
    normalization: str
    dataset_digest: str
    adapter_sha256: str
    training_documents: dict[str, TrainingDocuments]
    """by model: whether documents of these pages were trained on, as far as the evaluation could tell"""

    @property
    def decision(self) -> str:
        """``promoted`` or ``not promoted``."""
        return "promoted" if self.promoted else "not promoted"

    def tags(self) -> dict[str, str]:
        """Return the decision and its figures as tags of a registered version."""
        interval = self.improvement_interval
        return {
            "gate": self.decision,
            "gate.reason": self.reason,
            "gate.reference": self.reference,
            "gate.metric": self.metric,
            "gate.challenger_error": f"{self.challenger_error:.6g}",
            "gate.reference_error": f"{self.reference_error:.6g}",
            "gate.improvement": f"{self.improvement:.6g}",
            "gate.improvement_interval": f"{interval[0]:.6g} to {interval[1]:.6g}" if interval else "none",
            "gate.min_improvement": f"{self.min_improvement:.6g}",
            "gate.loop_rate": f"{self.challenger_loop_rate:.6g}",
            "gate.pages": str(self.pages),
            "gate.documents": str(self.documents),
            "gate.normalization": self.normalization,
        }

    def differences_from(self, rows: Iterable[ReportRow]) -> list[str]:
        """Return which of the verdict's figures are not those of a report's ``rows``; empty where they are."""
        found, reported = [], {row.name: row for row in rows}
        for name, error in ((self.challenger, self.challenger_error), (self.reference, self.reference_error)):
            row = reported.get(name)
            if row is None:
                found.append(f"the report has no row {name!r}")
                continue
            if self.pages != row.pages:
                found.append(f"it read {self.pages} pages of the {name}, the report {row.pages}")
            rate = row.cer if self.metric == "cer" else row.wer
            if not math.isclose(error, rate, rel_tol=1e-9, abs_tol=1e-12):
                found.append(f"the {name}'s {self.metric.upper()} is {error}, the report's {rate}")
        return found
