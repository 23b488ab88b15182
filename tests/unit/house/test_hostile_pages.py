"""Hostile text in records, datasets, verdicts and benchmarks stays text on every page and in terminals."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from components.benchmark.config import BenchmarkConfig
from components.benchmark.report.page import benchmark_page
from components.export.step import run
from components.gate.verdict.verdict_page import verdict_page
from components.shared.artifacts.benchmark_report import BenchmarkReport, ContenderRow
from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.markdown import markdown_code, markdown_text
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.digests import sha256_folder
from components.shared.errors import UserError, printable
from tests.fixtures.dataset_fixture import Page, write_dataset
from tests.fixtures.export_fixture import TEXTS, export_config, make_sources, write_evaluation, write_gate

EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> ![p](https://evil.example/p.png) [a](javascript:alert(3)) "
    "<https://evil.example> https://evil.example/a www.evil.example me@evil.example "
    "| `code` ``` \n# heading\n\n<svg/onload=x>"
)
ALLOWED_TAGS = {
    *("h1", "h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "em", "strong"),
    *("hr", "details", "summary"),
}
SAFE_ADDRESS = re.compile(r"data:image/|#|LICENSE$|example_page\.png$")


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def check_markdown(text: str) -> None:
    """Check what GitHub, the hub, MLflow and KFP make of a page: HTML, tables, and links from bare addresses."""
    found = Tags(rendered(text)).tags
    assert {tag for tag, _ in found} <= ALLOWED_TAGS | {"img"}
    for tag, attributes in found:
        assert not [name for name in attributes if name.startswith("on")]
        for address in (attributes.get("href"), attributes.get("src")):
            assert address is None or SAFE_ADDRESS.match(address), (tag, address)
    assert not re.search(r"(?i)[a-z]+://|\bwww\.|[a-z0-9]@[a-z0-9]", re.sub(r"`[^`]*`", "", text))


def test_the_model_card_shows_hostile_records_as_text(tmp_path: Path) -> None:
    made = make_sources(tmp_path / "made")
    shutil.rmtree(made / "dataset")
    digest = write_dataset(made / "dataset", [Page(text, EVIL) for text in TEXTS], source=EVIL)
    record = TrainingRecord.read(made / "adapter")
    hostile = {"config": {EVIL: EVIL, "r": EVIL}, "versions": {EVIL: EVIL}, "dataset_digest": EVIL}
    record.model_copy(update=hostile).write(made / "adapter")
    shutil.rmtree(made / "evaluation")
    write_evaluation(made / "evaluation", digest, sha256_folder(made / "adapter"), device=EVIL, dtype=EVIL)
    base = made / "base <img src=x onerror=alert(1)>"
    (made / "base").rename(base)
    gate = write_gate(made, tmp_path / "gate", False, reason=EVIL)
    config = export_config(made, tmp_path / "out", base_model=str(base), gate_dir=gate)
    card = (run(config).folder / "README.md").read_text(encoding="utf-8")
    body = card.split("\n---\n", 1)[1]
    assert "alert" in body, "the text is shown"
    check_markdown(body)
    assert "<script" not in body and "<img src=x" not in body
    assert read_manifest(made / "dataset").config["source"] == EVIL


def test_the_verdict_shows_hostile_findings_as_text(tmp_path: Path) -> None:
    made = make_sources(tmp_path / "made")
    rules = [{"rule": "improvement", "passed": False, "finding": EVIL}]
    write_gate(made, tmp_path / "gate", False, reason=EVIL, rules=rules, dataset_digest=EVIL)
    page = verdict_page(GateVerdict.read(tmp_path / "gate"))
    check_markdown(page)
    assert "<script" not in page


def test_the_benchmarks_page_shows_hostile_reasons_as_text(tmp_path: Path) -> None:
    row = ContenderRow(contender="unsloth", status="failed", reason=EVIL, runs=0, figures={}, missing={"reading": EVIL})
    empty: dict[str, Any] = {"config": {}, "dataset_digest": EVIL, "versions": {}, "measurements": [], "ratios": []}
    report = BenchmarkReport(contenders=[row], notes=[EVIL], **empty)
    page = benchmark_page(BenchmarkConfig(dataset_dir=tmp_path, output_dir=tmp_path / "o", base_model=EVIL), report)
    found = Tags(page).tags
    assert not {tag for tag, _ in found} & {"script", "img", "link", "iframe", "object"}
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    addresses = [attributes.get(name) for _, attributes in found for name in ("src", "href", "xlink:href")]
    assert all(address is None or address.startswith("#") for address in addresses)


@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.lists(st.sampled_from(EVIL.split())).map(" ".join))
def test_any_text_stays_text(text: str) -> None:
    shown = rendered(f"before {markdown_text(text)} after {markdown_code(text)} end")
    assert {tag for tag, _ in Tags(shown).tags} <= {"p", "code"}


def test_terminals_get_no_commands_and_no_turned_lines() -> None:
    error = UserError("bad \x1b[2J name \u202egnp.exe\x07", where="a\x1b]0;title\x07.png", mend="rename \u2066it")
    assert not re.search(r"[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]", str(error))
    assert printable("Zeilen\tund\nText, فارسی می\u200cخواهم", keep="\n\t") == "Zeilen\tund\nText, فارسی می\u200cخواهم"
    assert json.loads(json.dumps(printable("\x9b31m"))) == "\\x9b31m"
