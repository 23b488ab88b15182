"""`deepsynth retry`, and the reported progress of running steps while a run is followed."""

import ast
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components.train.loop import training
from pipelines.following.progress import resumed_after, work_in
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import FakeKfp
from tests.fixtures.kubernetes_api_server import FakeKubernetes
from tests.fixtures.recorded_cluster import replay

TRAIN_POD = "deepsynth-finetune-5gptw-retry-system-container-impl-1199535318"


def command(shell: Shell, kfp: FakeKfp, name: str, run: str) -> Answer:
    return shell(name, run, "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05")


def with_train(run: dict[str, Any], train: str, state: str) -> dict[str, Any]:
    """Return the run with different states for the task train and for the run itself."""
    changed = copy.deepcopy(run)
    changed["state"] = state
    changed["state_history"].append({"update_time": "2026-11-29T01:45:00Z", "state": state})
    for task in changed["run_details"]["task_details"]:
        if task.get("display_name") == "train":
            task["state"] = train
    return changed


def progress_line(done: int, seconds: int, loss: float) -> str:
    record = {
        "time": f"2026-11-29T01:30:{seconds:02d}+00:00",
        "level": "INFO",
        "logger": "components.shared.telemetry.progress",
        "message": f"train: {done} of 75, 0.1/s, {seconds} s, loss {loss}",
        "done": done,
        "total": 75,
        "rate": 0.1,
    }
    return json.dumps(record)


RESUMED = json.dumps(
    {"level": "INFO", "message": "training goes on after step 12, from /checkpoints/x/training-1/checkpoint-12"}
)


def test_a_cancelled_run_is_tried_again_and_followed(shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes) -> None:
    run = replay("terminated-while-training", kfp, kubernetes)
    (before,) = kfp.recorded[run]
    running = with_train(before, "RUNNING", "RUNNING")
    kfp.after_retry = [[running, with_train(running, "SUCCEEDED", "SUCCEEDED")]]
    pod = next(pod for pod in kubernetes.pods if pod["metadata"]["name"] == TRAIN_POD)
    pod["status"] = {"phase": "Running"}
    kubernetes.logs = {TRAIN_POD: f"{RESUMED}\n{progress_line(20, 10, 0.4)}\n"}
    answer = command(shell, kfp, "retry", run)
    assert answer.code == 0, answer.err
    assert "kept: configure, prepare\ntried again: train\n" in answer.out
    assert "train: the training resumed after step 12" in answer.out
    assert "train: 20 of 75, loss 0.4" in answer.out
    assert "the run has ended: succeeded" in answer.out


def test_a_retried_run_that_fails_is_not_called_cancelled(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes
) -> None:
    run = replay("terminated-while-training", kfp, kubernetes)
    (before,) = kfp.recorded[run]
    kfp.after_retry = [[with_train(with_train(before, "RUNNING", "RUNNING"), "FAILED", "FAILED")]]
    answer = command(shell, kfp, "retry", run)
    assert answer.code == 1 and "error: train failed (attempt 1 of 2): terminated from outside (SIGTERM)" in answer.err


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("answered-by-the-cache", "this one is succeeded; start a new run with: deepsynth submit"),
        ("image-missing", "this one is running; wait, with: deepsynth follow"),
    ],
)
def test_only_a_failed_run_is_tried_again(record: str, said: str, shell: Shell, kfp: FakeKfp) -> None:
    answer = command(shell, kfp, "retry", replay(record, kfp, None))
    assert answer.code == 2 and said in answer.err


def test_without_a_volume_for_checkpoints_the_user_learns_it(shell: Shell, kfp: FakeKfp) -> None:
    (shell.folder / "environment.yaml").write_text("tag: 1-a\nnamespace: kubeflow\nmlflow_tracking_uri: 'off'\n")
    run = replay("train-out-of-memory", kfp, None)
    kfp.after_retry = [list(kfp.recorded[run])]
    answer = command(shell, kfp, "retry", run)
    assert "note: the environment has no checkpoints volume: the training starts at its first step" in answer.out


def test_time_left_is_by_what_was_done_since_the_first_look() -> None:
    first, last = work_in([progress_line(12, 0, 0.5)]), work_in([progress_line(33, 21, 0.25), "no JSON"])
    assert first and last
    assert first.text(first) == "train: 12 of 75, loss 0.5", "no rate is known yet"
    assert last.text(first) == "train: 33 of 75, loss 0.25, about 42 s left"


def test_the_step_says_where_it_resumed_in_words_that_are_understood() -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(Path(training.__file__).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "after step %d, from" in node.value
    ]
    (text,) = texts
    assert resumed_after([json.dumps({"message": text % (12, "/checkpoints/x")})]) == 12


@pytest.mark.parametrize(("planned", "said"), [("75", "20 of 75, loss 0.0500"), (None, "20, loss 0.0500")])
def test_mlflow_shows_the_progress_where_no_pod_can_be_read(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: str | None, said: str
) -> None:
    """The training counts epochs: the total is the steps that it planned."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = replay("terminated-while-training", kfp, None)
    (before,) = kfp.recorded[run]
    running = with_train(before, "RUNNING", "RUNNING")
    kfp.recorded[run] = [running, with_train(running, "SUCCEEDED", "SUCCEEDED")]
    client = MlflowClient(uri)
    tracked = client.create_run("0", tags={"kfp.run_id": run, "deepsynth.step": "train"}).info.run_id
    client.log_param(tracked, "max_steps", None)
    if planned:
        client.set_tag(tracked, "deepsynth.planned_steps", planned)
    for step in (13, 14, 20):
        client.log_metric(tracked, "loss", 1 / step, step=step)
    answer = command(shell, kfp, "follow", run)
    assert "train: the training resumed after step 12" in answer.out
    assert f"train: {said}" in answer.out
