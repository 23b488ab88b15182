"""Rows that enter, leave, move and outgrow their cache write what ``generate`` writes; tests/gpu replays graphs."""

from pathlib import Path

import pytest

from components.serve.engines import running_rows
from components.serve.engines.running_rows import RunningRows
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.continuous_reading import PAGES, ContinuousReading


@pytest.fixture(scope="module", params=["tiny-base", pytest.param("deepseek_ocr2", marks=pytest.mark.slow)])
def reading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ContinuousReading:
    if request.param == "tiny-base":
        return ContinuousReading("tiny-base", "cpu")
    folder: Path = tmp_path_factory.mktemp("deepseek") / "model"
    save_tiny_deepseek_ocr2(folder)
    return ContinuousReading(str(folder), "cpu")


@pytest.mark.parametrize(
    ("steps", "fixed", "no_repeat"),
    [(1, False, None), (4, True, None), (1, False, NoRepeatNgrams(2, 12)), (4, True, NoRepeatNgrams(2, None, (5,)))],
)
def test_the_tokens_are_those_of_each_page_alone(
    reading: ContinuousReading,
    steps: int,
    fixed: bool,
    no_repeat: NoRepeatNgrams | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a cache without spare columns the rows move to both sides, and a longer prompt makes it grow."""
    monkeypatch.setattr(running_rows, "_CACHE_GRANULE", 8)
    monkeypatch.setattr(running_rows, "_SPARE_COLUMNS", 0)
    moves: list[int] = []
    move = RunningRows._move
    monkeypatch.setattr(RunningRows, "_move", lambda rows, columns: (moves.append(columns), move(rows, columns)))
    rows = RunningRows(reading.model, most_rows=3, steps_at_once=steps, fixed_width=fixed, no_repeat=no_repeat)
    found = reading.read(rows)
    assert found == {page: reading.alone(page, no_repeat) for page in range(len(PAGES))}
    assert min(moves) < 0, "the rows moved to the left"
