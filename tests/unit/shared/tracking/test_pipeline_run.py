"""What the pipeline's exit task and first task write to MLflow, in a real store."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.shared.tracking.cached_steps import note_cached_step
from components.shared.tracking.ended_runs import ended_run
from components.shared.tracking.pipeline_run import close_pipeline_run, name_pipeline_run, tag_pipeline_run
from components.shared.tracking.step_run import step_run
from tests.fixtures.mlflow_server import free_port

RUN_ID = "0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deepsynth-finetune")
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient(uri)


def parent_and_nested(client: MlflowClient) -> tuple[Run, dict[str, Run]]:
    experiment = client.get_experiment_by_name("deepsynth-finetune").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parent, {run.data.tags["deepsynth.step"]: run for run in runs if run is not parent}


def killed_step(name: str) -> None:
    """Run a step in a process that is killed as if it had run out of memory."""
    program = f"""
        import os, signal
        from components.shared.tracking.step_run import step_run
        with step_run({name!r}, {{}}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=dict(os.environ))
    assert ended.returncode == -9


@pytest.mark.parametrize(
    ("state", "status"),
    [
        # The states of the local runner, and those that KFP 2.17's backend forwards from its metadata store.
        ("SUCCEEDED", "FINISHED"),
        ("COMPLETE", "FINISHED"),
        ("FAILED", "FAILED"),
        ("CANCELLED", "KILLED"),
        ("CANCELED", "KILLED"),
    ],
)
def test_the_parent_gets_the_pipelines_final_state(client: MlflowClient, state: str, status: str) -> None:
    with step_run("prepare", {}):
        pass
    for _ in range(2):  # KFP may retry the task
        assert close_pipeline_run(state) == status
    parent, nested = parent_and_nested(client)
    assert parent.info.status == status and parent.info.end_time
    assert nested["prepare"].info.status == "FINISHED"


def test_a_step_that_was_killed_is_running_until_the_run_is_closed(client: MlflowClient) -> None:
    with step_run("prepare", {}):
        pass
    killed_step("train")
    parent, nested = parent_and_nested(client)
    assert (parent.info.status, nested["train"].info.status) == ("RUNNING", "RUNNING")
    assert close_pipeline_run("FAILED") == "FAILED"
    parent, nested = parent_and_nested(client)
    assert (parent.info.status, nested["train"].info.status) == ("FAILED", "KILLED")
    assert nested["prepare"].info.status == "FINISHED"


def finished_step(name: str, tags: Mapping[str, str] | None = None) -> None:
    with step_run(name, {}) as tracked:
        tracked.set_tags(tags or {})


@pytest.mark.parametrize("decision", ["promoted", "not promoted"])
def test_a_state_that_is_not_final_is_decided_by_the_steps(client: MlflowClient, decision: str) -> None:
    finished_step("prepare")
    killed_step("train")
    assert close_pipeline_run("RUNNING") == "KILLED"
    finished_step("train")  # a retry
    assert close_pipeline_run("RUNNING") == "KILLED", "terminated between two steps"
    finished_step("gate", {"gate": decision})
    if decision == "promoted":
        assert close_pipeline_run("RUNNING") == "KILLED", "terminated before export"
        finished_step("export")
    assert close_pipeline_run("UNKNOWN") == "FINISHED"


def test_the_parent_has_the_runs_name_and_link_and_runs_until_it_is_closed(client: MlflowClient) -> None:
    name_pipeline_run("letters [2]", f"https://kfp.example/#/runs/details/{RUN_ID}")
    assert parent_and_nested(client)[0].info.status == "RUNNING"
    for step in ("prepare", "train"):
        finished_step(step)
        parent, nested = parent_and_nested(client)
        assert parent.info.status == "RUNNING" and parent.info.run_name == "letters [2]"
        assert nested[step].info.run_name == f"letters [2] · {step}"
    tags = parent.data.tags
    assert (tags["kfp.run_name"], tags["kfp.run_page"]) == (
        "letters [2]",
        f"https://kfp.example/#/runs/details/{RUN_ID}",
    )
    link = rf"KFP run [letters \[2\]](https://kfp.example/#/runs/details/{RUN_ID})"
    assert tags["mlflow.note.content"].startswith(link)
    assert close_pipeline_run("SUCCEEDED") == "FINISHED"
    assert link in parent_and_nested(client)[0].data.tags["mlflow.note.content"]


def test_where_no_step_was_tracked_nothing_is_made_up(client: MlflowClient) -> None:
    assert close_pipeline_run("FAILED") is None
    assert client.get_experiment_by_name("deepsynth-finetune") is None


def test_a_run_of_another_owner_is_left_alone(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = client.create_experiment("the plugin's")
    owned = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", owned)
    with step_run("train", {}):
        pass
    assert close_pipeline_run("SUCCEEDED") is None
    assert client.get_run(owned).info.status == "RUNNING"
    tag_pipeline_run({"deepsynth.decision": "unchanged"})
    assert client.get_run(owned).data.tags["deepsynth.decision"] == "unchanged"


def test_a_store_that_is_down_is_said_once_and_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    assert close_pipeline_run("SUCCEEDED") is None
    with step_run("gate", {}):
        pass
    note_cached_step("evaluate", "a" * 32)
    assert ended_run("gate") is None
    (record,) = [record for record in caplog.records if record.name.startswith("components.shared.tracking")]
    assert "the run's final state was not written" in record.getMessage()


@pytest.mark.parametrize("variable", ["off", "nothing known of a pipeline run"])
def test_nothing_is_tracked(client: MlflowClient, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    if variable == "off":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    else:
        monkeypatch.delenv("KFP_RUN_ID")
    tag_pipeline_run({"a": "b"})
    assert close_pipeline_run("SUCCEEDED") is None
    assert client.get_experiment_by_name("deepsynth-finetune") is None


def test_a_runs_name_sorts_by_time(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    tag_pipeline_run({"a": "b"})
    parent, _ = parent_and_nested(client)
    day, time, short = parent.info.run_name.removeprefix("pipeline ").replace("-", " ").split()
    assert len(day) == 8 and len(time) == 6 and short == RUN_ID[:8]
    assert parent.data.tags["kfp.run_id"] == RUN_ID and parent.data.tags["a"] == "b"
