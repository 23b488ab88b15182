"""Where a train task keeps its checkpoints if KFP may retry it."""

import json
from pathlib import Path

import pytest

from pipelines.task_side.persistent_folders import kept_checkpoints


def folder_of(settings: str) -> str | None:
    return json.loads(settings).get("checkpoint_dir")


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPSYNTH_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    return tmp_path


def test_each_run_has_a_folder_of_its_own_which_goes_when_the_training_is_done(volume: Path) -> None:
    with kept_checkpoints('{"r": 8}') as settings:
        assert json.loads(settings) == {"r": 8, "checkpoint_dir": str(volume / "run-1")}
        (volume / "run-1").mkdir()
    assert list(volume.iterdir()) == []


def test_the_next_attempt_finds_what_a_failed_one_left(volume: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="killed"), kept_checkpoints("{}") as settings:
            folder = Path(str(folder_of(settings)))
            (folder / "training-x").mkdir(parents=True, exist_ok=True)
            raise ValueError("killed")
    assert [path.name for path in folder.iterdir()] == ["training-x"]
    with kept_checkpoints("{}"):
        (folder / "training-x").rmdir()  # as a successful training does
    assert not folder.exists()


def test_a_folder_with_another_trainings_checkpoints_stays(volume: Path) -> None:
    with kept_checkpoints("{}"):
        (volume / "run-1" / "training-other").mkdir(parents=True)
    assert (volume / "run-1" / "training-other").is_dir()


def test_a_configured_folder_is_kept(volume: Path) -> None:
    with kept_checkpoints('{"checkpoint_dir": "/elsewhere"}') as settings:
        assert folder_of(settings) == "/elsewhere"


def test_without_the_variable_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSYNTH_CHECKPOINTS", raising=False)
    with kept_checkpoints('{"r": 8}') as settings:
        assert settings == '{"r": 8}'
