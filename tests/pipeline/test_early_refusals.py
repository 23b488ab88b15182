"""The run's first task refuses settings that gate or export would refuse hours later, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import UserError
from pipelines.task_side.resolution import resolve


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "page.txt").write_text("A text.")
    return str(tmp_path / "page.txt")


def resolved(source: str, **sections: dict[str, Any]) -> dict[str, Any]:
    return resolve(json.dumps({"source": source} | sections), {})._asdict()


def test_an_upload_without_a_token_is_refused_before_anything_runs(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert json.loads(resolved(source)["export"])["push_to_hub"] is None
    with pytest.raises(UserError, match="HF_TOKEN: no token"):
        resolved(source, export={"push_to_hub": "me/reader"})
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    settings = resolved(source, export={"push_to_hub": "me/reader"})
    assert json.loads(settings["export"])["push_to_hub"] == "me/reader"
    assert "hf_secret" not in str(settings)


def test_a_gate_over_the_trainings_own_pages_is_refused_before_anything_runs(source: str) -> None:
    with pytest.raises(UserError, match=r"evaluate\.split 'train': the gate promotes nothing"):
        resolved(source, evaluate={"split": "train"})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"prepare": {"eval_fraction": 0}}, r"prepare\.eval_fraction 0: no page is held out"),
        ({"prepare": {"max_documents": 1}}, r"prepare\.max_documents 1: one document cannot be split"),
        ({"train": {"peft": "none"}, "export": {"merge": True}}, r"export\.merge with train\.peft 'none'"),
    ],
)
def test_settings_that_cannot_succeed_are_refused_before_anything_runs(
    source: str, sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        resolved(source, **sections)


def test_a_holdout_of_its_own_needs_no_eval_fraction(source: str) -> None:
    settings = resolved(source, prepare={"eval_fraction": 0, "holdout": {"source": source}})
    assert json.loads(settings["prepare"])["eval_fraction"] == 0


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"prepare": {"max_documents": 20, "eval_fraction": 0.1}}, "prepare.max_documents times eval_fraction"),
        ({"prepare": {"max_eval_pages": 2}}, "prepare.max_eval_pages"),
        ({"evaluate": {"max_pages": 2}}, "evaluate.max_pages"),
        ({"evaluate": {"max_pages": 2}, "gate": {"min_documents": 2}}, None),
    ],
)
def test_a_run_that_cannot_be_promoted_is_told_before_it_trains(
    source: str, sections: dict[str, Any], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    resolved(source, **sections)
    warned = [record.getMessage() for record in caplog.records if "gate.min_documents" in record.getMessage()]
    assert bool(warned) == bool(named)
    if named:
        assert warned[0].startswith(f"{named} holds out at most 2 documents")
