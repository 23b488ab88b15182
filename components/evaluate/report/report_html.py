"""``report.html``: the figures, the distribution of errors, and example pages, in one file without scripts."""

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.report.cer_plot import COLOURS, cer_plot
from components.evaluate.report.character_diff import Run, character_diff
from components.evaluate.report.example_pages import example_pages
from components.evaluate.report.headline import decisive_comparison, headline, percent, points
from components.evaluate.report.reliability_plot import reliability_plot
from components.evaluate.scoring.scores import ModelScores, judged
from components.shared.artifacts.evaluation_report import EvaluationReport, Trait
from components.shared.datasets.shard_reader import Sample

HTML_FILE = "report.html"
_LISTED_VALUES = 20
"""Rows of a breakdown; if there are more values, those with the most pages are shown."""
_TRAIT_NAMES: dict[Trait, str] = {trait: trait for trait in get_args(Trait)} | {"lang": "language"}
_WIDEST_PICTURE = 900  # pixels; twice what a phone shows


@dataclass(frozen=True)
class Reading:
    """One model's reading of a page, with the difference to the normalised label."""

    model: str
    cer: float
    runs: list[Run]
    remarks: list[str]


@dataclass(frozen=True)
class ShownPage:
    """A page as the report shows it."""

    key: str
    source_id: str
    page: int
    picture: str | None
    label: str
    direction: Literal["ltr", "rtl"]
    readings: list[Reading]


def write_html(
    path: Path, report: EvaluationReport, models: Sequence[ModelScores], pages: EvaluationPages, worst_pages: int
) -> None:
    """Write the report; the pages it shows are chosen by the scores of the adapter, or of the base if it is alone."""
    by_name = {scores.name: scores for scores in models}
    shown = judged(models)
    decisive = decisive_comparison(report)
    reference = by_name[decisive.against] if decisive else None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["chance"] = chance
    text = environment.get_template("report.html.jinja").render(
        report=report,
        headline=headline(report),
        judged=shown.name,
        with_bertscore=report.rows[0].bertscore is not None,
        colours=COLOURS,
        # matplotlib's output, drawn only from numbers and our row names: nothing in it comes from a page.
        plot=Markup(cer_plot({scores.name: [page.characters.rate for page in scores.pages] for scores in models})),
        calibrations=[
            (unit, found, note, Markup(reliability_plot(found, COLOURS[shown.name])) if found else None)
            for unit, found, note in (
                ("page", report.calibration, report.calibration_note),
                ("line", report.line_calibration, report.line_calibration_note),
            )
        ],
        breakdowns=[
            (_TRAIT_NAMES[trait], values[:_LISTED_VALUES], len(values))
            for trait, values in report.breakdowns.items()
            if len(values) > 1
        ],
        groups=[
            (title, [_shown(position, models, pages) for position in positions])
            for title, positions in example_pages(shown, reference, worst_pages)
        ],
    )
    path.write_text(text, encoding="utf-8")


def chance(p_value: float) -> str:
    """Return a p-value with two significant digits.

    >>> chance(0.0412), chance(1.0), chance(3e-9)
    ('0.041', '1', 'below 0.0001')
    """
    return "below 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def direction_of(text: str) -> Literal["ltr", "rtl"]:
    """Return the direction of the first letter that has one (rule P2 of Unicode's bidirectional algorithm).

    >>> direction_of("1. اللغة (Arabic)"), direction_of("a ا"), direction_of("12")
    ('rtl', 'ltr', 'ltr')
    """
    strong = (unicodedata.bidirectional(character) for character in text)
    first = next((kind for kind in strong if kind in ("L", "R", "AL")), "L")
    return "ltr" if first == "L" else "rtl"


def _shown(position: int, models: Sequence[ModelScores], pages: EvaluationPages) -> ShownPage:
    label = models[0].pages[position].label
    readings = []
    for scores in models:
        score = scores.pages[position]
        remarks = [
            text
            for text, holds in (
                ("repetition loop", score.loop),
                ("cut off at max_new_tokens", score.prediction.truncated),
            )
            if holds
        ]
        if score.prediction.error:
            remarks.append(f"failed: {score.prediction.error}")
        runs = character_diff(label.normalised, score.normalised)
        readings.append(Reading(scores.name, score.characters.rate, runs, remarks))
    picture = _picture(pages[position])
    return ShownPage(label.key, label.source_id, label.page, picture, label.text, direction_of(label.text), readings)


def _picture(page: Sample) -> str | None:
    """Return the page as a data URL, scaled down to the report's width; None if the picture cannot be decoded."""
    try:
        image = page.image.copy()  # the page keeps its own picture
    except OSError:
        return None
    image.thumbnail((_WIDEST_PICTURE, 4 * _WIDEST_PICTURE))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
