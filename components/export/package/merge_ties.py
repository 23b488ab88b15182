"""Tells a tie that rounding decided from a merge that reads differently.

Merging rounds every weight to bfloat16 once more, which moves all scores a little. Where the adapter finds two tokens
almost equally likely, the merged weights may choose the other one. How far rounding moves scores is measured, on the
tokens where both still agree: the *noise* is the largest change of the difference between the adapter's two best
scores. A reading that differs is a tie if that difference is no larger than the noise where the two part. The noise
itself must be small beside what the adapter does to the base's scores: otherwise it could be an adapter that was lost.
Where there is no base (a whole model), it must be small beside what parts our two best tokens: otherwise it could be
another model.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from components.shared.reading.transcriber import StepByStep

_LEAST_EFFECT_OVER_NOISE = 4.0
"""A choice: with less, noise and a lost adapter, or another model, could be confused."""


@dataclass(frozen=True)
class MergeTie:
    """Where the merged weights chose the other one of two almost equal tokens.

    Attributes:
        page: the page's key.
        token: its place in the answer, from 0.
        margin: the difference of the adapter's scores for the two tokens.
        noise: the largest difference that rounding alone made elsewhere.
    """

    page: str
    token: int
    margin: float
    noise: float


def ties_of(
    keys: Sequence[str], adapter: Sequence[StepByStep], merged: Sequence[StepByStep], base: Sequence[StepByStep] | None
) -> dict[str, MergeTie]:
    """Return the pages whose readings part at a tie, by key; empty if the noise is not small.

    Args:
        keys: the pages' keys.
        adapter: the adapter's readings of the pages.
        merged: the merged weights' readings.
        base: the base's readings, of at least one token; None for a whole model, which has none.
    """
    noise = noise_of(adapter, merged)
    if base is None:
        noisy, effect = noise, statistics.median(_margins(adapter, merged) or [0.0])
    else:
        noisy = max(_move(ours, theirs, 0) for ours, theirs in zip(adapter, merged, strict=True))
        effect = max(_move(ours, theirs, 0) for ours, theirs in zip(adapter, base, strict=True))
    if effect < _LEAST_EFFECT_OVER_NOISE * noisy:
        return {}
    found = {}
    for key, ours, theirs in zip(keys, adapter, merged, strict=True):
        place = _parting(ours.tokens, theirs.tokens)
        if place is None:
            continue
        scores = ours.best[place]
        margin = scores[ours.tokens[place]] - scores.get(theirs.tokens[place], float("-inf"))
        if margin <= noise:
            found[key] = MergeTie(key, place, margin, noise)
    return found


def noise_of(adapter: Sequence[StepByStep], other: Sequence[StepByStep]) -> float:
    """Return the largest change of the difference between the adapter's two best scores, where both readings agree.

    Tokens whose second best score the other reading does not tell (vLLM tells 16) are left out: nothing is known of it.
    """
    moves = (move for ours, theirs in zip(adapter, other, strict=True) for move in _moves(ours, theirs))
    return max(filter(math.isfinite, moves), default=0.0)


def _parting(ours: list[int], theirs: list[int]) -> int | None:
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), None)


def _margins(ours: Sequence[StepByStep], others: Sequence[StepByStep]) -> list[float]:
    """Return the differences between our two best scores, at the tokens before the readings part."""
    found = []
    for one, other in zip(ours, others, strict=True):
        for scores in one.best[: _parting(one.tokens, other.tokens)]:
            first, second = list(scores.values())[:2]
            found.append(first - second)
    return found


def _moves(ours: StepByStep, theirs: StepByStep) -> list[float]:
    """Return the moves at the tokens before the two part: what comes before them is the same text for both."""
    place = _parting(ours.tokens, theirs.tokens)
    return [
        _move(ours, theirs, step)
        for step in range(min(len(ours.tokens), len(theirs.tokens)) if place is None else place)
    ]


def _move(ours: StepByStep, theirs: StepByStep, step: int) -> float:
    """Return how much the difference between our two best tokens' scores is another one in the other reading."""
    (first, best), (second, next_best) = list(ours.best[step].items())[:2]
    scores = theirs.best[step]
    if first not in scores or second not in scores:
        return float("inf")
    return abs((best - next_best) - (scores[first] - scores[second]))
