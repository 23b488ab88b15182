"""The train task as KFP starts it a second time, on another node: it resumes from the run's last checkpoint."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.training_fixture import base_and_dataset, boats

pytestmark = pytest.mark.slow

RUN_ID = "0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1"
SETTINGS: dict[str, Any] = {
    "backend": "standard",
    "max_steps": 40,
    "per_device_train_batch_size": 2,
    "save_steps": 4,
    "dataloader_num_workers": 0,
}


def train_task(made: Path, settings: dict[str, Any], output: Path, checkpoints: Path) -> subprocess.Popen[bytes]:
    """Start the component's function with the artifacts that KFP would pass to it, in its own process."""
    program = f"""
        from kfp import dsl
        from pipelines.definition import tasks as components
        components.train.python_func(
            config={json.dumps(settings)!r},
            base_digest="of the test",
            dataset=dsl.Dataset(uri={str(made / "dataset")!r}),
            adapter=dsl.Model(uri={str(output)!r}),
            metrics=dsl.Metrics(uri={str(output) + "-metrics"!r}),
        )
    """
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "off",
        "OMP_NUM_THREADS": "1",
        "KFP_RUN_ID": RUN_ID,
        "DEEPSYNTH_CHECKPOINTS": str(checkpoints),
    }
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)


def test_a_killed_train_task_resumes_and_leaves_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    made = base_and_dataset(tmp_path / "made", boats(12, 4), pages=8, lines_per_page=(4, 4))
    settings = SETTINGS | {"base_model": str(made / "base")}
    checkpoints = tmp_path / "checkpoints"
    first = train_task(made, settings, tmp_path / "first", checkpoints)
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob(f"{RUN_ID}/training-*/checkpoint-*/checkpoint.json")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (tmp_path / "first" / "training.json").exists()

    second = train_task(made, settings, tmp_path / "second", checkpoints)
    assert second.wait(timeout=300) == 0
    training = json.loads((tmp_path / "second" / "training.json").read_text())
    (resumed_after,) = training["resumed_after_steps"]
    assert resumed_after >= 4 and len(training["losses"]) == 40
    assert list(checkpoints.iterdir()) == []
