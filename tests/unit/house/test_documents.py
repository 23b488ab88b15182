"""The documents for developers and users: what they name exists, and what is drawn from the code is of today's code."""

import re
from pathlib import Path

from docs.draw_architecture import PAGE, page_with_picture

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A path of the repository in backticks or a link, such as `components/train/step.py`; no placeholders, no globs.
NAMED = re.compile(r"(?<![\w/.-])((?:components|pipelines|tests|images|manifests|docs)/[\w./-]*[\w/])")


# A heading's address on GitHub: lower case, no punctuation, hyphens for spaces.
DROPPED = re.compile(r"[^\w\- ]")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {DROPPED.sub("", heading.strip().lower()).replace(" ", "-") for heading in plain}


def test_links_lead_to_a_file_and_a_heading() -> None:
    broken = set()
    for page in PAGES:
        for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
                broken.add(f"{page.relative_to(ROOT)}: {link}")
    assert broken == set()


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    files = [*PAGES, *(ROOT / "manifests").rglob("*.yaml"), *(ROOT / "images").glob("*.*"), ROOT / "Makefile"]
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in re.findall(r"(?m)(?:`|^ *)make ([a-z][a-z-]+)", path.read_text())
    }
    assert len(named) > 30
    assert sorted((path, name) for path, name in named if name not in targets) == []


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
