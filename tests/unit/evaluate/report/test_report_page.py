"""``report.html``: what it shows for a run with five readers, and that text from models or documents is escaped."""

from pathlib import Path

import pytest
from lxml import html

from tests.fixtures.dataset_fixture import Page
from tests.fixtures.inert_pages import HOSTILE, check_inert_file
from tests.fixtures.scored_pages import write_page_report

TEXTS = [
    "A letter about the harbour",
    "Ein Brief",
    "Η ελληνική γλώσσα",
    "漢字かな交じり文",
    "اللغة العربية",
    "Кот и пёс",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> html.HtmlElement:
    pages = [
        Page(f"{TEXTS[number % 6]} {number}", f"folder {number % 3}/rows.jsonl:{number}", font=f"Font {number % 4}")
        for number in range(30)
    ]
    folder = tmp_path_factory.mktemp("report")
    return check_inert_file(write_page_report(folder, pages, pipeline_run_id="20261129-034012"))


def test_title_and_head_name_run_date_and_adapter(page: html.HtmlElement) -> None:
    title = page.findtext(".//title")
    assert title == "Evaluation of adapter aaaaaaaaaaaa, run 20261129-034012, 2026-11-29"
    assert page.findtext(".//h1") == "Adapter aaaaaaaaaaaa on tiny-base"
    head = page.xpath("//h1/following-sibling::p")[0].text_content()
    assert head == "Run 20261129-034012, 2026-11-29 00:00 UTC; champion: ocr version 7"


def test_the_headline_is_about_the_champion_and_in_plain_words(page: html.HtmlElement) -> None:
    headline = page.find_class("verdict")[0].text_content()
    assert headline.startswith("The adapter is better than the champion. It makes ") and "% fewer errors" in headline
    assert " times " not in headline and "base" not in headline


def test_it_breaks_the_figures_down(page: html.HtmlElement) -> None:
    titles = [title.text_content() for title in page.iter("h2")]
    assert [title for title in titles if title.startswith("By ")] == ["By source", "By folder", "By script", "By font"]
    tables = {table.findtext(".//th"): table for table in page.iter("table")}
    first = [row.findtext("td") for row in tables["script"].findall(".//tbody/tr")]
    assert sorted(first) == ["Arabic", "Cyrillic", "Greek", "Japanese", "Latin"]
    assert [row.findtext("td") for row in tables["folder"].findall(".//tbody/tr")] == [f"folder {n}" for n in range(3)]


def test_worst_best_improved_and_random_pages_are_shown_once_each(page: html.HtmlElement) -> None:
    titles = [title.text_content() for title in page.iter("h2")]
    kinds = ("Worst pages", "Most improved pages", "Best pages", "Random pages")
    assert [title for title in titles if "pages of the" in title] == [f"{kind} of the adapter" for kind in kinds]
    keys = [article.find("h3/span").text for article in page.iter("article")]
    assert len(keys) == len(set(keys)) == 10 + 3 * 3


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    pages = [Page(text, f"{text}/{text}.jsonl:{number}", lang=text, font=text) for number, text in enumerate(HOSTILE)]
    written = write_page_report(
        tmp_path,
        pages,
        error=" ".join(HOSTILE),
        pipeline_run_id=HOSTILE[0],
        device=HOSTILE[1],
        versions={HOSTILE[0]: HOSTILE[1]},
        definitions={HOSTILE[2]: HOSTILE[5]},
    )
    shown = check_inert_file(written).text_content()
    for text in HOSTILE:
        assert text in shown
