"""The pages that the report shows: the worst, the most improved, looping, best and random ones."""

import random
from collections.abc import Iterable, Sequence

from components.evaluate.scoring.scores import ModelScores

_OF_EACH = 3
_SEED = 0


def example_pages(judged: ModelScores, reference: ModelScores | None, worst_pages: int) -> list[tuple[str, list[int]]]:
    """Return titles with positions of pages; no page is shown twice.

    Args:
        judged: the scores of the adapter, or of the base if there is no adapter.
        reference: the scores that the adapter is compared with.
        worst_pages: the most pages that the first group has; never more than half of all pages.
    """
    rates = [page.characters.rate for page in judged.pages]
    count = len(rates)
    worst_first = sorted(range(count), key=lambda position: (-rates[position], position))
    gains: list[float] = [0.0] * count
    if reference is not None:
        gains = [page.characters.rate - rate for page, rate in zip(reference.pages, rates, strict=True)]
    most_improved = sorted((p for p in range(count) if gains[p] > 0), key=lambda position: (-gains[position], position))
    looping = [position for position in worst_first if judged.pages[position].loop]
    shuffled = random.Random(_SEED).sample(range(count), count)
    shown: set[int] = set()

    def take(positions: Iterable[int], most: int) -> list[int]:
        taken = [position for position in positions if position not in shown][:most]
        shown.update(taken)
        return taken

    groups: Sequence[tuple[str, Iterable[int], int]] = (
        ("Worst pages", worst_first, min(worst_pages, -(-count // 2))),
        ("Most improved pages", most_improved, _OF_EACH),
        ("More repetition loops", looping, _OF_EACH),
        ("Best pages", reversed(worst_first), _OF_EACH),
        ("Random pages", shuffled, _OF_EACH),
    )
    return [(title, take(positions, most)) for title, positions, most in groups]
