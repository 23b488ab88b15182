"""The calibration of a model's confidence: fitted and judged on different documents, or not at all, and said."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.scoring.calibration import calibrated, calibrated_lines
from components.evaluate.scoring.scores import Label, PageScore
from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.reading.line_readings import LineReading
from components.shared.reading.transcriber import Prediction
from components.shared.scoring.edit_counts import EditCounts
from components.shared.scoring.text_normalization import normalizer
from tests.fixtures.dataset_fixture import Page
from tests.fixtures.report_fixture import evaluation_report
from tests.fixtures.scored_pages import write_page_report

LINES = "the first line\nthe second one\nand the last"


def page(document: str, mean_logprob: float | None, good: bool) -> PageScore:
    """Return a page of 100 characters with 5 wrong ones if it is ``good``, else with 6."""
    label = Label("key", document, 0, "t" * 100, "t" * 100)
    edits = EditCounts(5 if good else 6, 100)
    return PageScore(label, Prediction("x", mean_logprob=mean_logprob), "x", edits, EditCounts(0, 1), {}, False)


def pages(count: int, slope: float, intercept: float, scale: float = 1.0) -> list[PageScore]:
    """Return pages that are good with the probability that a known map gives them."""
    random = np.random.default_rng(0)
    confidence = -random.exponential(0.5, count)
    good = random.random(count) < 1 / (1 + np.exp(-(slope * confidence + intercept)))
    rows = zip(confidence, good, strict=True)
    return [page(f"document {i % 40}", float(scale * mean), bool(ok)) for i, (mean, ok) in enumerate(rows)]


def test_a_known_map_is_found_and_its_error_is_small() -> None:
    found, note = calibrated(pages(4000, slope=5, intercept=2))
    assert found and (found.count, found.documents, found.folds) == (4000, 40, 5) and "4000 pages of 40" in note
    assert found.slope == pytest.approx(5, rel=0.1) and found.intercept == pytest.approx(2, rel=0.1)
    assert found.probability(-0.4) == pytest.approx(0.5, abs=0.03)
    assert 0 < found.expected_calibration_error < 0.03
    assert sum(one.count for one in found.bins) == 4000
    assert all(one.low <= one.probability <= one.high for one in found.bins)
    by_hand = sum(one.count * abs(one.share - one.probability) for one in found.bins) / 4000
    assert found.expected_calibration_error == pytest.approx(by_hand)
    assert found.good == pytest.approx(sum(one.count * one.share for one in found.bins))


def test_confidences_that_differ_by_thousandths_are_calibrated_as_well() -> None:
    wide, narrow = (calibrated(pages(1000, 5, 2, scale))[0] for scale in (1.0, 0.001))
    assert wide and narrow and narrow.slope == pytest.approx(1000 * wide.slope, rel=1e-3)
    assert narrow.brier_score == pytest.approx(wide.brier_score, rel=1e-3)


def test_a_pages_probability_does_not_know_its_document() -> None:
    """One document alone has the lowest confidence: its labels change the map, but not its own probabilities."""
    others = [page(f"document {i % 30}", -0.1 * (i % 10), i // 10 % 10 < 8 - 0.65 * (i % 10)) for i in range(600)]
    found = []
    for good in (False, True):
        calibration, _ = calibrated([*others, *(page("apart", -2.0, good) for _ in range(12))])
        assert calibration
        found.append(calibration)
    low, same = (one.bins[0] for one in found)
    assert (low.count, same.count) == (12, 12) and (low.share, same.share) == (0, 1)
    assert low.probability == same.probability
    assert found[0].slope > found[1].slope
    assert found[1].expected_calibration_error > found[0].expected_calibration_error


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        (pages(40, 5, 2), "40 pages, 50 are needed"),
        ([page("one", -0.1 * i, i < 40) for i in range(80)], "1 documents, 10 are needed"),
        ([page(f"d{i}", -0.1 * i, i < 9) for i in range(80)], "9 of 80 pages have a CER of at most 0.05"),
        ([page(f"d{i % 20}", -0.1 * i, i > 40) for i in range(80)], "higher confidence were not read better"),
        ([page(f"d{max(0, i - 60)}", -0.1 * i, i < 40) for i in range(80)], "in too few documents"),
        ([page(f"d{i}", None, i < 40) for i in range(80)], "0 pages, 50 are needed"),
    ],
)
def test_what_cannot_be_calibrated_is_said(scored: list[PageScore], said: str) -> None:
    found, note = calibrated(scored)
    assert found is None and note.startswith("not calibrated: ") and said in note


def lined(document: str, lines: list[tuple[str, float]]) -> PageScore:
    """Return a page with a label of three lines, and a reading of these lines with their confidences."""
    label = Label("key", document, 0, LINES, "")
    prediction = Prediction("", mean_logprob=-1.0, lines=tuple(LineReading(text, mean, mean) for text, mean in lines))
    return PageScore(label, prediction, "", EditCounts(0, 1), EditCounts(0, 1), {}, False)


def test_lines_are_calibrated_by_their_own_errors() -> None:
    """A page's second line is wrong where its confidence is low; the first and the last are always right."""
    random = np.random.default_rng(0)
    scored = []
    for number in range(300):
        confidence = -float(random.exponential(0.5))
        right = random.random() < 1 / (1 + np.exp(-(5 * confidence + 2)))
        second = "the second one" if right else "some other text"
        lines = [("the first line", -0.01), (second, confidence), ("and the last", -0.01)]
        scored.append(lined(f"document {number % 30}", lines))
    found, note = calibrated_lines(scored, normalizer("nfkc-ws-v1"))
    assert found and (found.unit, found.count, found.documents) == ("line", 900, 30) and "900 lines of 30" in note
    wrong = sum(page.prediction.lines[1].text == "some other text" for page in scored)
    assert 0 < wrong == found.count - found.good
    assert found.probability(-0.01) > 0.9 and found.probability(-1.0) < 0.2
    assert found.expected_calibration_error < 0.05


def test_too_few_lines_are_not_calibrated() -> None:
    found, note = calibrated_lines([lined("one", [("the first line", -0.1)])] * 20, normalizer("nfkc-ws-v1"))
    assert found is None and "20 lines, 50 are needed" in note


def test_the_report_shows_the_diagrams_their_tables_and_counts(tmp_path: Path) -> None:
    calibration, note = calibrated(pages(400, 5, 2))
    assert calibration
    values = {**calibration.model_dump(), "unit": "line", "count": 800}
    lines = ConfidenceCalibration.model_validate({**values, "bins": values["bins"][1:]})
    drawn = [Page("one page of text", "first"), Page("another page of text", "second")]
    given = {"calibration": calibration, "calibration_note": note, "line_calibration": lines}
    path = write_page_report(tmp_path, drawn, **given, line_calibration_note="fitted on lines")
    text = path.read_text()
    section = text[text.index("How far the confidence of the adapter can be trusted") :]
    section = section[: section.index("<h2>", 10)]
    assert section.count("<svg") == 2 and "of 400 pages were read well" in section
    assert "itted on 400 pages of 40" in section and "of 800 lines were read well" in section
    assert len(re.findall(r'data-name="lines"', section)) == len(calibration.bins) - 1
    assert len(re.findall(r'data-name="pages"', section)) == len(calibration.bins)


def test_the_report_says_why_there_is_no_calibration(tmp_path: Path) -> None:
    drawn = [Page("one page of text", "first"), Page("another page of text", "second")]
    text = write_page_report(tmp_path, drawn, calibration_note="not calibrated: 2 pages, 50 are needed").read_text()
    assert "Not calibrated: 2 pages, 50 are needed." in text


def test_reports_without_a_calibration_can_be_read() -> None:
    written = json.loads(evaluation_report().model_dump_json())
    for name in ("calibration", "line_calibration"):
        del written[name], written[f"{name}_note"]
    assert EvaluationReport.of(written, "report.json").calibration is None
    calibration, _ = calibrated(pages(400, 5, 2))
    again = evaluation_report(calibration=calibration).model_dump_json()
    read = EvaluationReport.parse(again, "report.json").calibration
    assert isinstance(read, ConfidenceCalibration) and read == calibration
