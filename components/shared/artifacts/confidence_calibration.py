"""The map from a page's mean log-probability to the probability that its reading is good, and how it was measured."""

import math

from components.shared.artifacts.step_file import FileContent


class ReliabilityBin(FileContent):
    """The pages whose probability is in one tenth of the range from 0 to 1."""

    low: float
    high: float
    pages: int
    probability: float
    """mean of the pages' probabilities"""
    share: float
    """share of the pages whose reading is good"""


class ConfidenceCalibration(FileContent):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * mean_logprob + intercept))).

    J. Platt, Probabilistic outputs for support vector machines (1999). The map was fitted on all pages; bins and errors
    are of probabilities that were fitted without the page's document (cross-fitting).
    """

    cer_at_most: float
    """a reading is good if the page's CER, after normalisation, is at most this"""
    slope: float
    intercept: float
    pages: int
    documents: int
    good_pages: int
    folds: int
    """parts of the documents; each part's probabilities were fitted on the others"""
    expected_calibration_error: float
    """sum over the bins of pages / all pages * |share - probability| (Guo et al., On calibration of modern neural
    networks, 2017, equation 3, with ten bins of equal width)"""
    brier_score: float
    """mean of (probability - good)^2 with good 1 or 0; 0 is best"""
    bins: list[ReliabilityBin]
    """those that have pages"""

    def probability(self, mean_logprob: float) -> float:
        """Return the probability that a page with this mean log-probability was read well.

        >>> values = {"cer_at_most": 0.05, "pages": 0, "documents": 0, "good_pages": 0, "folds": 5, "bins": []}
        >>> errors = {"expected_calibration_error": 0.0, "brier_score": 0.0}
        >>> ConfidenceCalibration(slope=2.0, intercept=1.0, **values, **errors).probability(-0.5)
        0.5
        """
        return 1 / (1 + math.exp(min(700.0, -(self.slope * mean_logprob + self.intercept))))
