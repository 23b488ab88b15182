"""The quickstart on a real KFP server, whose address is in ``KFP_HOST``.

    KFP_HOST=http://127.0.0.1:8080 DEEPSYNTH_ENVIRONMENT=manifests/environments/local.yaml \\
        .venv/bin/python -m pytest -m cluster tests/cluster

The images of this commit must be where the environment expects them; ``MLFLOW_TRACKING_URI`` (e.g. a forwarded port)
is needed for the result table. A run of the quickstart takes minutes: each task is a pod.
"""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
ROOT = Path(__file__).parents[2]
_LONGEST_RUN_SECONDS = 3600

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KFP_HOST"),
        reason="no cluster: set KFP_HOST to a KFP server's address, and DEEPSYNTH_ENVIRONMENT to its environment",
    ),
]


def deepsynth(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"DEEPSYNTH_ENVIRONMENT": str(ROOT / "manifests" / "environments" / "local.yaml"), **os.environ}
    return subprocess.run(
        [DEEPSYNTH, *arguments], env=environment, capture_output=True, text=True, timeout=_LONGEST_RUN_SECONDS
    )


def test_the_quickstart_succeeds_and_its_version_is_used_again() -> None:
    answer = deepsynth("submit", "--wait")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for step in ("configure", "prepare", "train", "evaluate", "benchmark", "gate", "close-run"):
        assert f"{step}: succeeded" in answer.stdout
    again = deepsynth("submit")
    assert again.returncode == 0 and "the one that is there" in again.stdout
    run_id = re.search(r"\(([0-9a-f-]{36})\)", again.stdout)
    assert run_id, again.stdout
    followed = deepsynth("follow", run_id.group(1))
    assert followed.returncode == 0, followed.stdout + followed.stderr


def test_a_mistake_that_only_a_task_can_find_is_named_with_its_step() -> None:
    answer = deepsynth("submit", "--wait", "--set", "source=/nowhere")
    assert answer.returncode == 1
    assert "configure failed" in answer.stderr


def test_a_schedule_is_made_paused_and_deleted() -> None:
    name = f"test-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    assert deepsynth("schedule", "create", name, "--cron", "0 3 1 1 *").returncode == 0
    try:
        assert deepsynth("schedule", "pause", name).returncode == 0
        assert re.search(rf"{name}\s+paused", deepsynth("schedule", "list").stdout)
    finally:
        assert deepsynth("schedule", "delete", name).returncode == 0
