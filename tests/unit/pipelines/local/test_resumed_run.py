"""Which runs' checkpoints a new run leaves: those that a run under way, or one that can be resumed, may need."""

from pathlib import Path

import pytest

from components.shared.artifacts.output_folder import finished_folder
from pipelines.local.resumed_run import checkpoints_root


@pytest.mark.parametrize(("resumed", "own"), [(False, set()), (True, {"own"})])
def test_only_checkpoints_that_no_run_can_use_are_removed(tmp_path: Path, resumed: bool, own: set[str]) -> None:
    for name in ("own", "finished", "under-way", "failed"):
        (tmp_path / ".checkpoints" / name / "training-1").mkdir(parents=True)
    (tmp_path / "failed.failed").mkdir()
    (tmp_path / "finished").mkdir()
    with finished_folder(tmp_path / "under-way"):
        root = checkpoints_root(tmp_path, "own", resumed)
    assert {path.name for path in root.iterdir()} == {"under-way", "failed"} | own
