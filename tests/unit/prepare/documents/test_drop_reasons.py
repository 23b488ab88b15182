"""Every reason for dropping something has an explanation, and mypy enforces it."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from components.prepare.documents import drop_reasons
from components.prepare.documents.drop_reasons import DropReason, dropped_kind, explain_drop


@pytest.mark.parametrize("reason", get_args(DropReason))
def test_every_reason_of_this_version_is_explained_and_has_a_kind(reason: str) -> None:
    kind, _, rest = reason.partition("_")
    words_alone = explain_drop(f"{kind}_unheard_of").replace("unheard of", rest.replace("_", " "))
    assert explain_drop(reason) != words_alone
    assert dropped_kind(reason) == f"{kind}s"


def test_an_unknown_reason_is_told_by_its_words() -> None:
    assert explain_drop("page_eaten_by_moths") == "Page: eaten by moths."
    assert explain_drop("moths") == "Moths."
    assert dropped_kind("moths") == ""


@pytest.mark.slow  # mypy takes 3 to 10 s
def test_the_type_check_fails_for_a_new_reason_without_an_explanation(tmp_path: Path) -> None:
    source = Path(drop_reasons.__file__).read_text(encoding="utf-8")
    new = source.replace('    "page_empty",\n', '    "page_empty",\n    "page_eaten_by_moths",\n', 1)
    declared = new.replace("    page_empty: str\n", "    page_empty: str\n    page_eaten_by_moths: str\n", 1)
    assert source != new != declared
    for name, content, fault in (
        ("plain", source, ""),
        ("new", new, "typeddict-item"),
        ("half", declared, "Missing key"),
    ):
        file = tmp_path / f"{name}.py"
        file.write_text(content, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
        checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert bool(checked.returncode) == bool(fault), checked.stdout
        assert fault in checked.stdout
