"""The description of a pipeline run shows texts of gate, runs and models as text, and links only to MLflow's pages."""

from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from components.shared.tracking.run_description import description
from tests.fixtures.inert_pages import HOSTILE, check_inert


def run(tags: dict[str, str], **metrics: float) -> Any:
    info = SimpleNamespace(run_id="abc", experiment_id="1")
    return SimpleNamespace(info=info, data=SimpleNamespace(metrics=metrics, tags=tags))


@pytest.mark.parametrize("evil", [*HOSTILE, "\x1b[2Jx\u202egpj.exe", "https://evil.example www.evil.example a@b"])
def test_hostile_tags_stay_text(evil: str) -> None:
    tags = {"gate": evil, "gate.reason": evil, "registered": f"{evil} version 3", "kfp.run_page": f"/runs/a`{evil}"}
    page = description(run(tags, adapter_cer=0.1), [run({"deepsynth.step": "evaluate"})])
    html = check_inert(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(page))
    addresses = [link.get("href") for link in html.iter("a")]
    assert addresses[0] == "#/experiments/1/runs/abc/artifacts/report.html"
    assert all(address.startswith("#/models/") for address in addresses[1:]) and len(addresses) <= 2
    assert "\x1b" not in page and "\u202e" not in page and "://" not in page


def test_a_name_with_brackets_ends_no_link() -> None:
    page = description(run({"registered": "a)[b](javascript:alert(1)) version 2"}), [])
    assert "](#/models/a%29%5Bb%5D%28javascript%3Aalert%281%29%29/versions/2)" in page
