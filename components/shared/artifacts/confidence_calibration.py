"""The map from a mean log-probability to the probability that a page or a line was read well."""

import math
from typing import Literal

from components.shared.artifacts.step_file import FileContent


class ReliabilityBin(FileContent):
    """The pages or lines whose probability is in one tenth of the range from 0 to 1."""

    low: float
    high: float
    count: int
    probability: float
    """mean of their probabilities"""
    share: float
    """share of those that were read well"""


class ConfidenceCalibration(FileContent):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * mean_logprob + intercept))).

    J. Platt, Probabilistic outputs for support vector machines (1999). The map was fitted on all pages (or
    lines); bins and errors are of probabilities that were fitted without the page's document (cross-fitting).
    """

    unit: Literal["page", "line"]
    """what the probability is of; a line is what stands between two line breaks of an answer"""
    cer_at_most: float
    """it was read well if its CER, after normalisation, is at most this"""
    slope: float
    intercept: float
    count: int
    """pages or lines"""
    documents: int
    good: int
    """those that were read well"""
    folds: int
    """parts of the documents; each part's probabilities were fitted on the others"""
    expected_calibration_error: float
    """sum over the bins of count / all * |share - probability| (Guo et al., On calibration of modern neural
    networks, 2017, equation 3, with ten bins of equal width)"""
    brier_score: float
    """mean of (probability - good)^2 with good 1 or 0; 0 is best"""
    bins: list[ReliabilityBin]
    """those that are not empty"""

    def probability(self, mean_logprob: float) -> float:
        """Return the probability that a page, or line, with this mean log-probability was read well.

        >>> values = {"unit": "page", "cer_at_most": 0.05, "count": 0, "documents": 0, "good": 0, "bins": []}
        >>> errors = {"folds": 5, "expected_calibration_error": 0.0, "brier_score": 0.0}
        >>> ConfidenceCalibration(slope=2.0, intercept=1.0, **values, **errors).probability(-0.5)
        0.5
        """
        return 1 / (1 + math.exp(min(700.0, -(self.slope * mean_logprob + self.intercept))))
