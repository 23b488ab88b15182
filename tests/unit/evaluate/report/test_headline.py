"""The report's headline: the comparison that the gate decides by, in words that anyone can read."""

import pytest

from components.evaluate.report.headline import headline
from tests.fixtures.report_fixture import evaluation_report, report_row


def rows(documents: int = 20, **rates: float) -> list[dict]:
    return [report_row(name, rate, pages=documents, documents=documents) for name, rate in rates.items()]


def said(documents: int = 20, **rates: float) -> tuple[str, str]:
    found = headline(evaluation_report(rows=rows(documents, **rates)))
    assert found is not None
    return found.claim, found.figures


def test_a_champion_decides_even_if_the_base_is_worse() -> None:
    claim, figures = said(base=0.5, adapter=0.2, champion=0.1)
    assert claim == "The adapter is worse than the champion."
    assert figures.startswith("It makes 100 % more errors (100 % to 100 %): ")
    assert "10.0" in figures and "50.0" not in figures


def test_without_a_champion_the_base_is_the_reference() -> None:
    claim, figures = said(base=0.5, adapter=0.145)
    assert claim == "The adapter is better than the base."
    assert figures.startswith("It makes 71 % fewer errors (71 % to 71 %): character error rate 14.5")


@pytest.mark.parametrize(
    ("documents", "adapter", "claim"),
    [
        (1, 0.1, "One document cannot tell adapter and base apart."),
        (9, 0.1, "9 documents cannot tell adapter and base apart."),
        (20, 0.5, "These pages cannot tell adapter and base apart."),
    ],
)
def test_what_cannot_be_told_is_not_claimed(documents: int, adapter: float, claim: str) -> None:
    assert said(documents, base=0.5, adapter=adapter)[0] == claim


def test_a_report_without_an_adapter_has_no_headline() -> None:
    assert headline(evaluation_report(rows=rows(base=0.5))) is None
