"""A tie that rounding decides is told from a merge that reads differently."""

import pytest

from components.export.package.merge_ties import MergeTie, ties_of
from components.shared.reading.transcriber import StepByStep

A, B, C = 1, 2, 3


def reading(*steps: dict[int, float]) -> StepByStep:
    best = [dict(sorted(step.items(), key=lambda item: -item[1])) for step in steps]
    return StepByStep("", [next(iter(step)) for step in best], best)


FIRST = {A: 5.0, B: 1.0, C: 0.0}
ROUNDED = {A: 5.0, B: 1.1, C: 0.0}  # the difference of the two best is 3.9 instead of 4
BASE = [reading({B: 5.0, A: 1.0, C: 0.0})]


def parting(margin: float) -> StepByStep:
    return reading(FIRST, {A: 2.0 + margin, B: 2.0, C: 0.0})


OTHER = reading(ROUNDED, {A: 2.0, B: 2.05, C: 0.0})


def test_a_margin_below_the_noise_is_a_tie() -> None:
    found = ties_of(["page"], [parting(0.03)], [OTHER], BASE)
    assert found == {"page": MergeTie("page", 1, pytest.approx(0.03), pytest.approx(0.1))}


def test_a_margin_above_the_noise_is_a_difference() -> None:
    assert ties_of(["page"], [parting(0.3)], [OTHER], BASE) == {}


def test_the_noise_of_other_pages_counts_and_their_text_stays() -> None:
    quiet = reading(FIRST, {A: 2.03, B: 2.0, C: 0.0})
    theirs = reading(FIRST, {A: 2.0, B: 2.05, C: 0.0})
    assert ties_of(["page"], [quiet], [theirs], BASE) == {}, "no noise was seen"
    both = ties_of(["noisy", "page"], [reading(FIRST), quiet], [reading(ROUNDED), theirs], BASE * 2)
    assert list(both) == ["page"]


def test_weights_that_lost_the_adapter_are_no_tie() -> None:
    adapter = [parting(0.03)]
    assert ties_of(["page"], adapter, [OTHER], [OTHER]) == {}, "the base reads like the merged weights"


def test_a_token_that_the_adapter_holds_for_unlikely_is_a_difference() -> None:
    other = reading(ROUNDED, {7: 2.0, A: 1.0, B: 0.0})
    assert ties_of(["page"], [parting(0.03)], [other], BASE) == {}
