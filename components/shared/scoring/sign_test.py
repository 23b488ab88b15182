"""The sign test: on how many pages one model is better than another, and whether that can be chance."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SignTest:
    """Two models' errors, page by page.

    Attributes:
        better: pages on which the candidate makes fewer errors.
        worse: pages on which it makes more.
        equal: pages with equally many errors; the test ignores them.
        p_value: two-sided; 1 if all pages are equal.
    """

    better: int
    worse: int
    equal: int
    p_value: float


def sign_test(edits: Sequence[float], others: Sequence[float]) -> SignTest:
    """Compare a model's ``edits`` per page with another's over the same pages, in the same order.

    The exact binomial test of ``better`` out of ``better + worse`` against 1/2 (Conover, Practical Nonparametric
    Statistics, 1999, section 3.4). It treats pages as independent and ignores how many errors a page has, so it
    complements the bootstrap over documents and does not replace it.

    Raises:
        ValueError: the two have different numbers of pages.

    >>> sign_test([1, 0, 2, 0, 0, 5], [3, 1, 4, 2, 0, 4])
    SignTest(better=4, worse=1, equal=1, p_value=0.375)
    """
    from scipy.stats import binomtest  # takes 0.6 s, which every command would wait for

    pairs = list(zip(edits, others, strict=True))
    better = sum(mine < other for mine, other in pairs)
    worse = sum(mine > other for mine, other in pairs)
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return SignTest(better, worse, len(pairs) - better - worse, p_value)
