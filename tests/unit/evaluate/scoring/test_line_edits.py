"""Which line of a reading an error belongs to, however the label's lines are broken."""

import pytest

from components.evaluate.scoring.line_edits import line_edits
from components.shared.scoring.text_normalization import normalizer

LABEL = "the first line\n\nalpha beta gamma\nthe last"


@pytest.mark.parametrize(
    ("lines", "rates"),
    [
        (["the first line", "alpha beta gamma", "the last"], [0, 0, 0]),
        (["the first line", "", "alpha beta  gamma", "the last"], [0, None, 0, 0]),
        (["the first", "line alpha beta", "gamma the last"], [0, 0, 0]),
        (["the first line", "alpha bela gamma", "the last"], [0, 1 / 16, 0]),
        (["the first line", "the last"], [0, 0]),
        (["the first line", "alpha", "the last"], [0, 10 / 15, 0]),
        (["the first line", "alpha beta gamma", "made up", "the last"], [0, 0, 1, 0]),
        (["the first line alpha beta gamma the last"], [0]),
        (["the first gamma", "the last"], [16 / 31, 0]),
        ([], []),
    ],
)
def test_an_error_belongs_to_the_line_that_has_it(lines: list[str], rates: list[float | None]) -> None:
    found = line_edits(LABEL, lines, normalizer("nfkc-ws-v1"))
    assert [None if one is None else one.rate for one in found] == pytest.approx(rates)


def test_lines_are_normalised_as_the_page_is() -> None:
    label, lines = "Fine Print", ["\ufb01ne print"]
    for profile, edits in (("nfkc-ws-v1", 2), ("lenient-v1", 0)):
        (found,) = line_edits(label, lines, normalizer(profile))
        assert found is not None and found.edits == edits
    (kept,) = line_edits("e\u0301t\u00e9", ["\u00e9te\u0301"], normalizer("nfc-v1"))
    assert kept is not None and (kept.edits, kept.reference_length) == (0, 3)
