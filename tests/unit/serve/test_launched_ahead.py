"""Steps that are launched before the tokens of those before them are looked at: a GPU's way, here on a CPU."""

from typing import Any

import pytest

from components.serve.adapters.sources import ModelFiles
from components.serve.config import ServeConfig
from components.serve.engines import lane
from components.serve.engines.running_rows import RunningRows
from components.serve.offline.local_reader import LocalReader
from tests.fixtures.drawn_pages import drawn_page

TEXTS = ("a line", "a longer line of text", "two\nlines", "b", "the last but one", "and the last page\nof them all")


def read(rows: int) -> list[Any]:
    config = ServeConfig(base_model="tiny-base", max_batch_size=rows, max_new_tokens=24)
    with LocalReader(ModelFiles("tiny-base", None), config) as reader:
        return list(reader.read([drawn_page(text) for text in TEXTS]))


def test_pages_read_the_same_when_steps_are_launched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = read(rows=1)
    launches: list[int] = []
    launch = RunningRows.launch
    monkeypatch.setattr(RunningRows, "launch", lambda rows: (launches.append(len(rows)), launch(rows))[1])
    monkeypatch.setattr(RunningRows, "looks_ahead", 1)
    monkeypatch.setattr(
        lane, "_rows_of", lambda loaded, most: RunningRows(loaded.bare, most, steps_at_once=4, fixed_width=True)
    )
    ahead = read(rows=3)
    assert max(launches) == 3, "pages shared steps"
    for one, other in zip(ahead, alone, strict=True):
        assert (one.text, one.tokens, one.truncated) == (other.text, other.tokens, other.truncated)
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-3)
        assert [line.text for line in one.lines] == [line.text for line in other.lines]
