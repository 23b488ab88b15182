"""Bootstrap intervals over documents, from counts per page.

Documents are resampled, not pages: pages of one document share font, subject and errors, so intervals from single
pages would be too narrow. Every figure here is a ratio of two sums over pages, so a resample is a matrix product: how
often each document was drawn, times the documents' sums.

Percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from components.shared.scoring.paired_comparison import CONFIDENCE, Interval, PairedComparison

_RESAMPLES_AT_ONCE = 256  # 256 resamples of 100,000 documents: 205 MB of counts
_KEPT_COUNTS = 16_000_000  # 128 MB. 1,000 pages of as many documents: the first interval 37 ms, each further one 1.4


class DocumentBootstrap:
    """Bootstrap over documents; every figure uses the same resamples, so differences are paired.

    Args:
        source_ids: the document of each page.
        resamples: how many times the documents are drawn with replacement.
        seed: of the draws.
    """

    def __init__(self, source_ids: Sequence[str], resamples: int, seed: int) -> None:
        documents, self._document_of_page = np.unique(np.asarray(source_ids), return_inverse=True)
        self.documents = len(documents)
        self.resamples = resamples
        self._seed = seed
        self._kept: list[NDArray[np.int64]] = []

    def ratios(self, numerators: Sequence[float], denominators: Sequence[float]) -> NDArray[np.float64]:
        """Return sum(numerators) / sum(denominators) in each resample; shape (resamples,).

        NaN where a resample's denominators sum to zero.
        """
        sums = np.stack([self._by_document(numerators), self._by_document(denominators)], axis=1)
        resampled = np.concatenate([counts @ sums for counts in self._draws()])
        return _divided(resampled[:, 0], resampled[:, 1])

    def _draws(self) -> Iterator[NDArray[np.int64]]:
        """Yield how often each document was drawn, in parts of shape (resamples, documents); every call the same."""
        if self._kept:
            yield from self._kept
            return
        random = np.random.default_rng(self._seed)
        chances = np.full(self.documents, 1 / self.documents)
        parts = []
        for start in range(0, self.resamples, _RESAMPLES_AT_ONCE):
            count = min(_RESAMPLES_AT_ONCE, self.resamples - start)
            part = random.multinomial(self.documents, chances, size=count)
            if self.resamples * self.documents <= _KEPT_COUNTS:
                parts.append(part)
            yield part
        self._kept = parts

    def interval(self, numerators: Sequence[float], denominators: Sequence[float]) -> Interval | None:
        """Return the 95 % interval of sum(numerators) / sum(denominators); None with fewer than two documents."""
        return self._percentiles(self.ratios(numerators, denominators))

    def compare(
        self, reference: Sequence[float], candidate: Sequence[float], denominators: Sequence[float]
    ) -> PairedComparison:
        """Compare two models' error counts per page over the same pages."""
        reference_rates = self.ratios(reference, denominators)
        candidate_rates = self.ratios(candidate, denominators)
        differences = reference_rates - candidate_rates
        reference_rate, candidate_rate = sum(reference) / sum(denominators), sum(candidate) / sum(denominators)
        return PairedComparison(
            reference=reference_rate,
            candidate=candidate_rate,
            difference=reference_rate - candidate_rate,
            difference_bootstrap_mean=float(np.nanmean(differences)),
            difference_interval=self._percentiles(differences),
            ratio=candidate_rate / reference_rate if reference_rate else None,
            ratio_interval=self._ratio_interval(reference_rates, candidate_rates),
            documents=self.documents,
            resamples=self.resamples,
            confidence=CONFIDENCE,
        )

    def _ratio_interval(
        self, reference_rates: NDArray[np.float64], candidate_rates: NDArray[np.float64]
    ) -> Interval | None:
        """Return the interval of candidate / reference; None if its upper bound is not known.

        A resample in which the reference makes no error has no ratio, however many errors the candidate makes. Without
        such resamples the candidate would look better than it is, so they count among the largest ratios.
        """
        faultless = reference_rates == 0
        if faultless.mean() >= (1 - CONFIDENCE) / 2:  # the upper bound would be one of theirs
            return None
        ratios = _divided(candidate_rates, reference_rates)
        ratios[faultless] = np.nanmax(ratios)
        return self._percentiles(ratios)

    def _by_document(self, values: Sequence[float]) -> NDArray[np.float64]:
        sums = np.zeros(self.documents)
        np.add.at(sums, self._document_of_page, np.asarray(values, float))
        return sums

    def _percentiles(self, values: NDArray[np.float64]) -> Interval | None:
        # With one document all resamples are equal: an interval of zero width would claim certainty.
        values = values[~np.isnan(values)]
        if self.documents < 2 or not len(values):
            return None
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)


def _divided(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerators, denominators, out=np.full(len(numerators), np.nan), where=denominators != 0)
