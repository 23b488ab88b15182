"""Files between steps: written and read through their models; invalid files give a clear error."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from components.shared.artifacts.step_file import StepFile
from components.shared.errors import UserError


class Counts(StepFile):
    FILE: ClassVar[str] = "counts.json"
    MADE_BY: ClassVar[str] = "count"
    schema_version: Literal[2] = 2
    pages: int
    rate: float = 0.0


def test_what_is_written_is_read_again_with_every_digit(tmp_path: Path) -> None:
    counts = Counts(pages=3, rate=0.1 + 0.2)
    assert counts.write(tmp_path) == tmp_path / "counts.json"
    assert Counts.read(tmp_path) == counts
    endless = Counts(pages=1, rate=float("inf"))
    endless.write(tmp_path)
    assert Counts.read(tmp_path) == endless


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, r"counts\.json: cannot be read \(No such file"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "counts.json has no schema version, this version of deepsynth reads 2; run the count step again"),
        ('{"pages": 1}', "has no schema version"),
        ('{"schema_version": 1, "pages": 1}', "has the schema version 1, this version of deepsynth reads 2"),
        ('{"schema_version": 2}', r"not a counts\.json of the count step \(pages: Field required\)"),
        ('{"schema_version": 2, "pages": 1, "lines": 2}', "lines: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_is_not_one_is_a_user_error(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "counts.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        Counts.read(tmp_path)
