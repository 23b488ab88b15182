"""The documents for developers and users: what they name exists, and what is drawn from the code is of today's code."""

import re
from pathlib import Path

from docs.draw_architecture import PAGE, page_with_picture

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A path of the repository in backticks or a link, such as `components/train/step.py`; no placeholders, no globs.
NAMED = re.compile(r"(?<![\w/.-])((?:components|pipelines|tests|images|manifests|docs)/[\w./-]*[\w/])")


def test_the_picture_of_the_architecture_is_of_todays_imports() -> None:
    page = PAGE.read_text()
    assert "```mermaid" in page
    assert page == page_with_picture(page), "python docs/draw_architecture.py draws it again"


def test_paths_that_the_documents_name_exist() -> None:
    # Below docs/benchmarks stand records of earlier days, with the paths of their days.
    pages = [page for page in PAGES if "benchmarks" not in page.parts]
    assert len(pages) > 10
    missing = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in NAMED.findall(page.read_text())
        if not (ROOT / name).exists() and not (page.parent / name).exists()
    }
    assert missing == set()
