"""How far a model's confidence can be trusted: calibrated and judged on different documents."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from components.evaluate.scoring.line_edits import line_edits
from components.evaluate.scoring.scores import PageScore
from components.shared.artifacts.confidence_calibration import ConfidenceCalibration, ReliabilityBin
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS

GOOD_CER = 0.05
"""A page or a line is read well if at most every twentieth character is wrong."""
FEWEST = 50
FEWEST_OF_EACH_KIND = 10
_FOLDS = 5
_BINS = 10


@dataclass(frozen=True)
class _Read:
    """A page or a line: its mean log-probability, whether it was read well, and the document that it is of."""

    confidence: float
    good: bool
    document: str


def calibrated(pages: Sequence[PageScore]) -> tuple[ConfidenceCalibration | None, str]:
    """Return the calibration of a model's pages, or None; and what was measured, or why nothing could be.

    Pages without a log-probability (those that failed) are left out: a service answers them with an error.
    """
    found = [
        _Read(page.prediction.mean_logprob, page.characters.rate <= GOOD_CER, page.label.source_id)
        for page in pages
        if page.prediction.mean_logprob is not None
    ]
    return _calibrated(found, "page")


def calibrated_lines(
    pages: Sequence[PageScore], normalise: Callable[[str], str]
) -> tuple[ConfidenceCalibration | None, str]:
    """Return the calibration of the lines of a model's answers, as ``calibrated``; see ``line_edits``."""
    found = [
        _Read(line.mean_logprob, counts.rate <= GOOD_CER, page.label.source_id)
        for page in pages
        for line, counts in zip(
            page.prediction.lines,
            line_edits(page.label.text, [line.text for line in page.prediction.lines], normalise),
            strict=True,
        )
        if counts is not None
    ]
    return _calibrated(found, "line")


def _calibrated(found: Sequence[_Read], unit: Literal["page", "line"]) -> tuple[ConfidenceCalibration | None, str]:
    known = [one for one in found if math.isfinite(one.confidence)]
    confidence = np.array([one.confidence for one in known], dtype=float)
    good = np.array([one.good for one in known], dtype=bool)
    documents = np.array([one.document for one in known])
    if reason := _too_few(good, documents, unit):
        return None, f"not calibrated: {reason}"
    folds = list(GroupKFold(_FOLDS).split(good, good, documents))
    if any(len(set(good[train])) < 2 for train, _ in folds):
        return None, f"not calibrated: all {unit}s that were read well, or all others, are in too few documents"
    probabilities = np.zeros(len(known))
    for train, held_out in folds:
        slope, intercept = _fitted(confidence[train], good[train])
        probabilities[held_out] = expit(slope * confidence[held_out] + intercept)
    slope, intercept = _fitted(confidence, good)
    if slope <= 0:
        return None, f"not calibrated: {unit}s of higher confidence were not read better"
    bins = _bins(probabilities, good)
    calibration = ConfidenceCalibration(
        unit=unit,
        cer_at_most=GOOD_CER,
        slope=slope,
        intercept=intercept,
        count=len(known),
        documents=len(set(documents)),
        good=int(good.sum()),
        folds=_FOLDS,
        expected_calibration_error=sum(one.count / len(known) * abs(one.share - one.probability) for one in bins),
        brier_score=float(np.mean((probabilities - good) ** 2)),
        bins=bins,
    )
    return calibration, (
        f"fitted on {len(known)} {unit}s of {calibration.documents} documents; each {unit} is judged by a map that was "
        f"fitted without its document ({_FOLDS} parts)"
    )


def _too_few(good: NDArray[np.bool_], documents: NDArray[np.str_], unit: str) -> str | None:
    count, well = len(good), int(good.sum())
    if count < FEWEST:
        return f"{count} {unit}s, {FEWEST} are needed"
    if len(set(documents)) < TELLING_DOCUMENTS:
        return f"{len(set(documents))} documents, {TELLING_DOCUMENTS} are needed"
    if min(well, count - well) < FEWEST_OF_EACH_KIND:
        return (
            f"{well} of {count} {unit}s have a CER of at most {GOOD_CER:g}; of such {unit}s and of others "
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
            count=int(inside.sum()),
            probability=float(probabilities[inside].mean()),
            share=float(good[inside].mean()),
        )
        for number in range(_BINS)
        if (inside := numbers == number).any()
    ]
