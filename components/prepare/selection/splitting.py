"""Computes the sides of the split, and how much of each source is kept."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def with_both_sides(evaluated: NDArray[np.bool_], positions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the mask ``evaluated``, changed if needed so that neither side is empty (given two documents or more).

    The document with the lowest position moves to an empty eval side, the one with the highest to an empty train side.
    """
    moved = evaluated.copy()
    if len(moved) > 1 and not moved.any():
        moved[positions.argmin()] = True
    elif len(moved) > 1 and moved.all():
        moved[positions.argmax()] = False
    return moved


def mixture(available: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return the kept documents per source: weight * T, with the largest T for which every source has enough.

    Weights are read as decimal numbers, so that 0.1 to 0.3 is exactly one to three.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    total = min(Fraction(count) / weight for count, weight in zip(available, exact, strict=True))
    return [int(weight * total) for weight in exact]


def lowest_of_both_sides(
    evaluated: NDArray[np.bool_], positions: NDArray[np.float64], amount: int
) -> NDArray[np.bool_]:
    """Return the mask of ``amount`` documents: from each side its share, those with the lowest positions."""
    of_eval = round(Fraction(amount * int(evaluated.sum()), max(len(positions), 1)))
    kept = np.zeros(len(positions), dtype=bool)
    for side, count in ((True, of_eval), (False, amount - of_eval)):
        members = np.flatnonzero(evaluated == side)
        kept[members[np.argsort(positions[members], kind="stable")[:count]]] = True
    return kept
