"""Tracking with a real SQLite store and a real MLflow server that dies in the middle of a step."""

import base64
import json
import logging
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from components.shared.tracking import mlflow_connection
from components.shared.tracking.step_run import step_run
from components.shared.versions import git_commit
from tests.fixtures.mlflow_server import end, free_port, mlflow_server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def all_runs(client: MlflowClient) -> dict:
    experiment = client.get_experiment_by_name("deepsynth")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_step_alone_is_a_top_level_run_in_the_local_store(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("<p>")
    with step_run("train", {"learning_rate": 1e-4, "target_modules": "x" * 9000, "max_length": None}) as tracked:
        for step in range(2500):
            tracked.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        tracked.log_dataset("ab" * 32, "/data/docs", "training")
        tracked.log_artifact(tmp_path / "out")
        tracked.log_artifact(tmp_path / "out" / "report.html")
        tracked.set_tags({"backend": "standard"})
        deadline = time.monotonic() + 120
        while not any(name.startswith("system/") for name in store.get_run(tracked.run_id).data.metrics):
            assert time.monotonic() < deadline, "no sample of the system metrics"
            time.sleep(0.1)
    (run,) = all_runs(store).values()
    assert run.info.run_name == "train"
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["backend"] == "standard"
    assert run.data.params["learning_rate"] == "0.0001"
    assert len(run.data.params["target_modules"]) == 6000
    assert "x" * 9000 in (tmp_path / "mlartifacts" / run.info.run_id / "artifacts" / "config.json").read_text()
    assert {entry.path for entry in store.list_artifacts(run.info.run_id)} == {"config.json", "out", "report.html"}
    history = store.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == list(range(2500))
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == ("ab" * 32)[:36]
    assert run.data.tags["deepsynth.dataset_digest"] == "ab" * 32
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]


def test_the_steps_of_one_pipeline_run_share_one_parent(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "20261120-201530")
    statuses = []
    for step in ("prepare", "train"):
        with step_run(step, {"seed": 1}):
            statuses.append(all_runs(store)["20261120-201530"].info.status)
        statuses.append(all_runs(store)["20261120-201530"].info.status)
    assert statuses == ["RUNNING"] * 4  # a run that is interrupted here must not count as finished
    runs = all_runs(store)
    parent = runs.pop("20261120-201530")
    assert set(runs) == {"20261120-201530 · prepare", "20261120-201530 · train"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert parent.data.params == {"seed": "1"}
    assert parent.data.tags["mlflow.source.git.commit"] == git_commit()
    assert parent.data.tags["kfp.run_id"] == "20261120-201530"


def test_an_error_fails_the_run_and_its_parent_until_the_step_is_done_again(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    with pytest.raises(ZeroDivisionError), step_run("train", {}):
        raise ZeroDivisionError
    with step_run("benchmark", {}):
        pass
    assert {name: run.info.status for name, run in all_runs(store).items()} == {
        "r1 · train": "FAILED",
        "r1 · benchmark": "FINISHED",
        "r1": "FAILED",
    }
    with step_run("train", {}):
        pass
    assert all_runs(store)["r1"].info.status == "RUNNING"


def test_the_parent_carries_what_runs_are_compared_by(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    settings = {"learning_rate": 1e-4, "seed": 3, "checkpoint_dir": "/tmp/x", "dataset_dir": "/tmp/y"}
    with step_run("train", settings) as tracked:
        tracked.log_dataset("ab" * 32, "rows.jsonl", "training")
        tracked.summarize({"train_seconds": 12.0, "train_steps": 3.0})
    train = tracked.run_id
    with step_run("evaluate", {"seed": 3, "max_new_tokens": 7, "text": {"a b": 1}, "output_dir": "/tmp/z"}) as tracked:
        tracked.summarize({"adapter_cer": 0.031, "adapter_cer_low": 0.02, "adapter_cer_high": 0.05, "base_cer": 0.4})
    with step_run("gate", {}) as gate:
        gate.log_dataset("ab" * 32, "evaluation", "evaluation")
        gate.summarize({"cer_improvement": 0.37}, {"gate": "promoted", "gate.reason": "better <b>|by</b> far"})
    parent = all_runs(store)["r1"]
    assert parent.data.params == {
        **{"learning_rate": "0.0001", "seed": "3", "evaluate.max_new_tokens": "7", "evaluate.text.a b": "1"},
    }
    assert parent.data.metrics["adapter_cer"] == 0.031 and parent.data.metrics["cer_improvement"] == 0.37
    assert [one.dataset.digest for one in parent.inputs.dataset_inputs] == [("ab" * 32)[:36]]
    assert parent.data.tags["gate"] == "promoted"
    page = parent.data.tags["mlflow.note.content"]
    assert "| adapter | 3.1% (2.0% – 5.0%) | – | – | – | – |" in page and "| base | 40.0% |" in page
    assert r"**promoted**: better &lt;b&gt;\|by&lt;/b&gt; far" in page
    assert f"runs/{tracked.run_id}/artifacts/report.html" in page and "Training: 3 steps in 12 s." in page
    assert train and store.get_run(train).data.params == {"learning_rate": "0.0001", "seed": "3"}
    experiment = store.get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(experiment.tags["mlflow.sharedViewState.deepsynth"])
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert "metrics.`adapter_cer`" in state["selectedColumns"]
    assert state["compareRunCharts"][0]["selectedParams"] == ["learning_rate"]


def test_figures_of_the_whole_run_outlive_a_failure_of_the_store(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    send = MlflowClient.log_batch
    with step_run("evaluate", {"max_new_tokens": 7}) as tracked:
        monkeypatch.setattr(MlflowClient, "log_batch", lambda *_, **__: os.environ["ANOTHER_THREAD_REMOVED_IT"])
        tracked.summarize({"adapter_cer": 0.031}, {"gate": "promoted"})
        tracked.log_dataset("ab" * 32, "rows.jsonl", "evaluation")
        monkeypatch.setattr(MlflowClient, "log_batch", send)
    parent = all_runs(store)["r1"]
    assert parent.data.metrics["adapter_cer"] == 0.031 and parent.data.tags["gate"] == "promoted"
    assert len(parent.inputs.dataset_inputs) == 1
    assert "| adapter | 3.1% |" in parent.data.tags["mlflow.note.content"]
    assert len(caplog.records) == 1


def test_what_the_store_refuses_leaves_no_run_open(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    with step_run("gate", {}) as tracked:
        tracked.summarize({"no/such name: *": 1.0})
    assert store.get_run(tracked.run_id).info.status == "FINISHED"


def test_mlflow_reports_nothing_to_its_makers_unless_the_user_says_so(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, used in ((None, "true"), ("false", "false")):
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
        if given:
            monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", given)
        mlflow_connection.connect(mlflow_connection.sqlite_uri(tmp_path / "mlflow.db"))
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == used


def test_the_parent_has_each_dataset_once_by_whatever_name_the_steps_know_it(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    read = {"prepare": "python-docs", "train": "/tmp/kfp/dataset", "evaluate": "python-docs", "gate": "/x/evaluation"}
    for step, source in read.items():
        with step_run(step, {}) as tracked:
            tracked.log_dataset("ab" * 32, source, "training" if step in ("prepare", "train") else "evaluation")
    with step_run("benchmark", {}) as tracked:
        tracked.log_dataset("cd" * 32, "other-docs", "training")
    runs = all_runs(store)
    inputs = {
        name: [
            (one.dataset.name, one.dataset.digest[:2], one.tags[0].value)
            for one in sorted(run.inputs.dataset_inputs, key=lambda one: one.dataset.digest)
        ]
        for name, run in runs.items()
    }
    both = "training, evaluation"
    assert inputs["r1"] == [("python-docs", "ab", both), ("other-docs", "cd", both)]
    assert inputs["r1 · train"] == [("python-docs", "ab", "training")]
    assert inputs["r1 · gate"] == [("python-docs", "ab", "evaluation")]


def test_a_setting_with_another_value_costs_no_other_setting(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KFP's MLflow plugin, or an earlier attempt with another batch size, may have logged a parameter first."""
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    for batch in (8, 4):
        with step_run("train", {"per_device_train_batch_size": batch, "r": 16, f"only_{batch}": 1}):
            pass
    params = all_runs(store)["r1"].data.params
    assert params == {"per_device_train_batch_size": "8", "r": "16", "only_8": "1", "only_4": "1"}


def test_a_given_run_becomes_the_parent(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = store.create_run(store.create_experiment("theirs"))
    monkeypatch.setenv("MLFLOW_RUN_ID", parent.info.run_id)
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    with step_run("train", {}):
        pass
    (run,) = [run for run in store.search_runs([parent.info.experiment_id]) if run.info.run_name == "r1 · train"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert store.get_run(parent.info.run_id).info.status == "RUNNING"


def test_off_touches_nothing(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    before = set(tmp_path.iterdir())
    with step_run("train", {"seed": 1}) as tracked:
        tracked.log_metrics({"loss": 1.0}, step=1)
        tracked.set_tags({"a": "b"})
        tracked.log_dataset("d", "s", "training")
    assert tracked.run_id is None
    assert set(tmp_path.iterdir()) == before


@pytest.fixture
def server(store: MlflowClient, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    with mlflow_server(tmp_path) as running:
        yield running


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_one_warning(
    server: tuple[str, subprocess.Popen],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    (tmp_path / "adapter.bin").write_bytes(b"weights")
    with caplog.at_level(logging.WARNING, logger="components"):
        with step_run("train", {"seed": 1}) as tracked:
            tracked.log_artifact(tmp_path / "adapter.bin")
            assert [entry.path for entry in MlflowClient(uri).list_artifacts(tracked.run_id)] == [
                "adapter.bin",
                "config.json",
            ]
            end(process)
            started = time.monotonic()
            tracked.set_tags({"a": "b"})
            tracked.log_metrics({"loss": 0.5}, step=1)
            tracked.log_artifact(tmp_path / "adapter.bin")
        seconds = time.monotonic() - started
    failures = [record.message for record in caplog.records if "tracking at" in record.message]
    assert len(failures) == 1 and uri in failures[0]
    assert any("2 values were not logged" in record.message for record in caplog.records)
    assert seconds < 120


def test_a_server_that_was_never_there_costs_one_warning(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="components"), step_run("train", {"seed": 1}) as tracked:
        tracked.log_metrics({"loss": 0.5}, step=1)
    assert tracked.run_id is None
    assert len(caplog.records) == 1
    assert time.monotonic() - started < 120


def test_a_missing_mlflow_package_costs_one_warning(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['mlflow'] = sys.modules['mlflow.tracking'] = None\n"
        "from components.shared.tracking.step_run import step_run\n"
        "with step_run('train', {}) as tracked: tracked.log_metrics({'loss': 1.0})\n"
        "print('went on')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.stdout == "went on\n"
    assert answer.stderr.count("MLflow tracking") == 1
    assert "Traceback" not in answer.stderr
