"""The comparison of two models over the same pages, with its interval. Imports no NumPy: settings use it too."""

from dataclasses import dataclass

CONFIDENCE = 0.95
TELLING_DOCUMENTS = 10
"""Below this the interval is too narrow: for equal models it excludes zero far more often than in 5 % of cases
(docs/gate.md has the rates), so no model is called better from fewer documents."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedComparison:
    """How much lower the candidate's error rate is than the reference's, over the same pages.

    Attributes:
        difference: reference - candidate; positive means that the candidate is better.
        difference_bootstrap_mean: the mean of the difference over the resamples.
        difference_interval: its 95 % interval; None with fewer than two documents.
        ratio: candidate / reference; None where the reference makes no error.
        ratio_interval: None also where the reference makes no error in 2.5 % of the resamples or more.
    """

    reference: float
    candidate: float
    difference: float
    difference_bootstrap_mean: float
    difference_interval: Interval | None
    ratio: float | None
    ratio_interval: Interval | None
    documents: int
    resamples: int
    confidence: float
