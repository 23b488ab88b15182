"""The report's first sentence: whether the adapter is better than what it would replace."""

from dataclasses import dataclass

from components.shared.artifacts.evaluation_report import EvaluationReport, RowComparison
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS, Interval


@dataclass(frozen=True)
class Headline:
    """A claim, and the figures behind it."""

    claim: str
    figures: str


def decisive_comparison(report: EvaluationReport) -> RowComparison | None:
    """Return the comparison that the gate decides by: with the champion if it has a row, else with the base."""
    return report.comparison("champion") or report.comparison("base")


def headline(report: EvaluationReport) -> Headline | None:
    """Return the headline; None for a report without an adapter."""
    decisive = decisive_comparison(report)
    if decisive is None:
        return None
    other, cer = decisive.against, decisive.cer
    rates = f"character error rate {percent(cer.candidate)} instead of {percent(cer.reference)}"
    if cer.difference_interval is None:
        claim = f"One document cannot tell adapter and {other} apart."
        return Headline(claim, f"{_first_upper(rates)}; one document gives no interval.")
    low, high = cer.difference_interval
    interval = (
        f"the difference is between {points(low)} and {points(high)} points "
        f"(95 %, paired bootstrap over {cer.documents} documents; positive: the adapter is better)"
    )
    if cer.documents < TELLING_DOCUMENTS:
        claim = f"{cer.documents} documents cannot tell adapter and {other} apart."
        few = f"but an interval from fewer than {TELLING_DOCUMENTS} documents is too narrow"
        return Headline(claim, f"{_first_upper(rates)}; {interval}, {few}.")
    if low <= 0 <= high:
        return Headline(f"These pages cannot tell adapter and {other} apart.", f"{_first_upper(rates)}; {interval}.")
    claim = f"The adapter is {'better' if low > 0 else 'worse'} than the {other}."
    change = _change(cer.ratio, cer.ratio_interval)
    return Headline(claim, f"{f'It makes {change}: {rates}' if change else _first_upper(rates)}; {interval}.")


def _change(ratio: float | None, interval: Interval | None) -> str:
    if ratio is None or interval is None:
        return ""
    bounds = sorted(interval, key=lambda bound: abs(1 - bound))
    return f"{fewer_errors(ratio)} ({' to '.join(map(_share, bounds))})"


def fewer_errors(ratio: float) -> str:
    """Return in words what a ratio of two error rates means.

    >>> fewer_errors(0.29), fewer_errors(1.5), fewer_errors(0.998)
    ('71 % fewer errors', '50 % more errors', '0.2 % fewer errors')
    """
    return f"{_share(ratio)} {'fewer' if ratio <= 1 else 'more'} errors"


def _share(ratio: float) -> str:
    share = 100 * abs(1 - ratio)
    return f"{share:.{0 if share >= 1 else 1}f} %"


def percent(rate: float | None) -> str:
    r"""Return a rate as percent; small rates get a second decimal.

    >>> percent(0.1234), percent(-0.00123), percent(None)
    ('12.3\xa0%', '-0.12\xa0%', '–')
    """
    if rate is None:
        return "–"
    return f"{100 * rate:.{2 if 0 < abs(rate) < 0.1 else 1}f}\N{NO-BREAK SPACE}%"


def points(difference: float | None) -> str:
    """Return a difference of two rates in percentage points, without a unit.

    >>> points(0.5491), points(-0.00123)
    ('54.9', '-0.12')
    """
    return percent(difference).removesuffix("\N{NO-BREAK SPACE}%")


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]
