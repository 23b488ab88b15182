"""``verdict.json``: what the gate decided, by which rules, from which figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.errors import UserError
from components.shared.scoring.statistics import Interval

VERDICT_FILE = "verdict.json"


class RuleOutcome(BaseModel):
    """One of the gate's rules, with its figures in words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    passed: bool
    finding: str


class GateVerdict(BaseModel):
    """The gate's decision; rates are 0 to 1 (an error rate can exceed 1), intervals are 95 % over documents.

    ``improvement`` is the reference's error rate less the challenger's, ``loop_rate_increase`` the challenger's rate
    less the reference's; an interval is None with fewer than two documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    schema_version: Literal[1] = 1
    promoted: bool
    reason: str
    """one sentence"""
    rules: list[RuleOutcome]
    challenger: str
    reference: Literal["champion", "base"]
    reference_model: dict[str, str | int | None]
    """what the evaluation's report says of the reference"""
    metric: Literal["cer", "wer"]
    challenger_error: float
    reference_error: float
    improvement: float
    improvement_interval: Interval | None
    min_improvement: float
    min_documents: int = 2
    """documents that the improvement asks for; a verdict that does not say so asked for an interval, which takes two"""
    challenger_loop_rate: float
    reference_loop_rate: float
    loop_rate_increase: float
    loop_rate_increase_interval: Interval | None
    max_loop_rate_increase: float
    pages: int
    documents: int
    confidence: float
    bootstrap_resamples: int
    seed: int
    normalization: str
    dataset_digest: str
    adapter_sha256: str
    training_documents: dict[str, str] = {}
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


def differences_from_report(verdict: Mapping[str, Any], rows: Sequence[Any]) -> list[str]:
    """Return which of a verdict's figures are not those of a report's ``rows``; nothing where it is of that report."""
    said = {row.get("name"): row for row in rows if isinstance(row, dict)}
    found = []
    for role in ("challenger", "reference"):
        row, name, metric = said.get(verdict.get(role)), verdict.get(role), str(verdict.get("metric"))
        if row is None:
            found.append(f"the report has no row {name!r}")
            continue
        if verdict.get("pages") != row.get("pages"):
            found.append(f"it read {verdict.get('pages')} pages of the {name}, the report {row.get('pages')}")
        if not _equal(verdict.get(f"{role}_error"), row.get(metric)):
            found.append(
                f"the {name}'s {metric.upper()} is {verdict.get(f'{role}_error')}, the report's {row.get(metric)}"
            )
    return found


def _equal(figure: Any, other: Any) -> bool:
    numbers = isinstance(figure, int | float) and isinstance(other, int | float)
    return bool(numbers and (math.isclose(figure, other, rel_tol=1e-9, abs_tol=1e-12) or figure != figure != other))


def write_verdict(verdict: GateVerdict, folder: Path) -> None:
    """Write ``verdict.json`` into ``folder``."""
    (folder / VERDICT_FILE).write_text(verdict.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_verdict(folder: Path) -> GateVerdict:
    """Read the gate's folder.

    Raises:
        UserError: there is no verdict in it, or it cannot be read.
    """
    path = folder / VERDICT_FILE
    try:
        return GateVerdict.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        mend = "name a folder made by the gate step"
        raise UserError(f"the gate's verdict cannot be read ({error})", where=str(path), mend=mend) from error
