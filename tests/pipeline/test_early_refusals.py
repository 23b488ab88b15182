"""What gate and export are sure to refuse hours later, the run's first task refuses before anything is trained."""

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
