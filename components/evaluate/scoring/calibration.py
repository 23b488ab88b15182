"""How far a model's confidence can be trusted: calibrated and judged on different documents."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from components.evaluate.scoring.scores import PageScore
from components.shared.artifacts.confidence_calibration import ConfidenceCalibration, ReliabilityBin
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS

GOOD_CER = 0.05
"""A page is read well if at most every twentieth character is wrong."""
FEWEST_PAGES = 50
FEWEST_OF_EACH_KIND = 10
_FOLDS = 5
_BINS = 10


def calibrated(pages: Sequence[PageScore]) -> tuple[ConfidenceCalibration | None, str]:
    """Return a model's calibration, or None; and in words what was measured, or why nothing could be.

    Pages without a log-probability (those that failed) are left out: a service answers them with an error.
    """
    known = [
        page
        for page in pages
        if page.prediction.mean_logprob is not None and math.isfinite(page.prediction.mean_logprob)
    ]
    confidence = np.array([page.prediction.mean_logprob for page in known], dtype=float)
    good = np.array([page.characters.rate <= GOOD_CER for page in known], dtype=bool)
    documents = np.array([page.label.source_id for page in known])
    if reason := _too_few(good, documents):
        return None, f"not calibrated: {reason}"
    folds = list(GroupKFold(_FOLDS).split(good, good, documents))
    if any(len(set(good[train])) < 2 for train, _ in folds):
        return None, "not calibrated: all pages that were read well, or all others, are in too few documents"
    probabilities = np.zeros(len(known))
    for train, held_out in folds:
        slope, intercept = _fitted(confidence[train], good[train])
        probabilities[held_out] = expit(slope * confidence[held_out] + intercept)
    slope, intercept = _fitted(confidence, good)
    if slope <= 0:
        return None, "not calibrated: pages of higher confidence were not read better"
    bins = _bins(probabilities, good)
    found = ConfidenceCalibration(
        cer_at_most=GOOD_CER,
        slope=slope,
        intercept=intercept,
        pages=len(known),
        documents=len(set(documents)),
        good_pages=int(good.sum()),
        folds=_FOLDS,
        expected_calibration_error=sum(one.pages / len(known) * abs(one.share - one.probability) for one in bins),
        brier_score=float(np.mean((probabilities - good) ** 2)),
        bins=bins,
    )
    return found, (
        f"fitted on {found.pages} pages of {found.documents} documents; each page is judged by a map that was fitted "
        f"without its document ({_FOLDS} parts)"
    )


def _too_few(good: NDArray[np.bool_], documents: NDArray[np.str_]) -> str | None:
    count, well = len(good), int(good.sum())
    if count < FEWEST_PAGES:
        return f"{count} pages, {FEWEST_PAGES} are needed"
    if len(set(documents)) < TELLING_DOCUMENTS:
        return f"{len(set(documents))} documents, {TELLING_DOCUMENTS} are needed"
    if min(well, count - well) < FEWEST_OF_EACH_KIND:
        return (
            f"{well} of {count} pages have a CER of at most {GOOD_CER:g}; of such pages and of others "
            f"{FEWEST_OF_EACH_KIND} each are needed"
        )
    return None


def _fitted(confidence: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of ``good`` on ``confidence``.

    scikit-learn's default penalty keeps them finite where confidence separates the pages. Confidence is standardised
    first: the log-probabilities of a good model differ by hundredths, and the penalty would flatten their slope.
    """
    mean, deviation = float(confidence.mean()), float(confidence.std()) or 1.0
    model = LogisticRegression().fit(((confidence - mean) / deviation)[:, None], good)
    slope = float(model.coef_[0, 0]) / deviation
    return slope, float(model.intercept_[0]) - slope * mean


def _bins(probabilities: NDArray[np.float64], good: NDArray[np.bool_]) -> list[ReliabilityBin]:
    numbers = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    return [
        ReliabilityBin(
            low=number / _BINS,
            high=(number + 1) / _BINS,
            pages=int(inside.sum()),
            probability=float(probabilities[inside].mean()),
            share=float(good[inside].mean()),
        )
        for number in range(_BINS)
        if (inside := numbers == number).any()
    ]
