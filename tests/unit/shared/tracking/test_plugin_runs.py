"""Steps under KFP's MLflow plugin: its runs as its driver, launcher and API server make and close them (KFP 2.17)."""

import inspect
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from components.shared.tracking.cached_steps import BENCHMARK_INPUTS_TAG
from components.shared.tracking.ended_runs import ended_run
from components.shared.tracking.pipeline_run import close_pipeline_run, name_pipeline_run
from components.shared.tracking.plugin_runs import TASK_INPUTS
from components.shared.tracking.step_run import step_run
from pipelines.definition import tasks
from pipelines.settings.step_sections import STEP_CONFIGS

RUN_ID = "0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1"


class Plugin:
    """What KFP's plugin does (backend/src/v2/common/plugins/mlflow, backend/src/apiserver/plugins/mlflow)."""

    def __init__(self, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client, self._monkeypatch = client, monkeypatch
        self.experiment = client.create_experiment("deepsynth-finetune")
        tags = {"kfp.pipeline_run_id": RUN_ID, "kfp.pipeline_run_url": f"/#/runs/details/{RUN_ID}"}
        self.pipeline = client.create_run(self.experiment, run_name="weekly 12", tags=tags).info.run_id
        self.inner = self._below(self._below(self.pipeline, "exit-handler-1"), "condition-2")

    def _below(self, parent: str, name: str) -> str:
        created = self.client.create_run(self.experiment, run_name=name, tags={"mlflow.parentRunId": parent})
        return str(created.info.run_id)

    def start(self, name: str, above: str | None = None) -> str:
        """Create a task's run and name it in the variables of its container."""
        task = self._below(above or self.inner, name)
        self._monkeypatch.setenv("MLFLOW_RUN_ID", task)
        self._monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", self.experiment)
        return task

    def end(self, task: str, status: str = "FINISHED") -> None:
        """Log the task's inputs and its scalar metrics in one batch, and close its run."""
        inputs = [Param(name, f'"KFP\'s {name}"') for name in ("config", "base_digest", "champion")]
        self.client.log_batch(task, metrics=[Metric("final_loss", 0.25, 1, 0)], params=inputs, synchronous=True)
        self.client.set_terminated(task, status)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    return Plugin(MlflowClient(uri), monkeypatch)


def test_the_plugins_runs_have_what_ours_would_have_and_none_is_added(plugin: Plugin) -> None:
    client = plugin.client
    plugin.start("configure", above=plugin.pipeline)
    name_pipeline_run("weekly 12", f"https://kfp.example/#/runs/details/{RUN_ID}", {BENCHMARK_INPUTS_TAG: "x"})
    train = plugin.start("train")
    with pytest.raises(ZeroDivisionError), step_run("train", {"learning_rate": 1e-4}):
        raise ZeroDivisionError
    assert "deepsynth.error" in client.get_run(train).data.tags
    with step_run("train", {"learning_rate": 1e-4}) as tracked:  # KFP starts a failed task again with the same run
        tracked.log_metrics({"loss": 0.5}, step=1)
        tracked.log_dataset("ab" * 32, "letters", "training")
        tracked.summarize({"train_seconds": 12.0, "train_steps": 3.0})
    plugin.end(train)
    assert ended_run("train").run_id == train
    evaluate = plugin.start("evaluate")
    with step_run("evaluate", {"champion": "reader", "max_pages": 7}) as tracked:
        tracked.summarize({"adapter_cer": 0.031, "base_cer": 0.4})
    assert client.get_run(evaluate).info.status == "RUNNING", "the plugin closes it"
    plugin.end(evaluate)
    closing = plugin.start("close-run", above=plugin.pipeline)
    assert close_pipeline_run("COMPLETE", {"benchmark": "out of memory"}) is None

    names = {run.info.run_name for run in client.search_runs([plugin.experiment])}
    assert names == {
        *("weekly 12", "exit-handler-1", "condition-2"),
        *("configure", "train", "evaluate", "close-run"),
    }
    own = client.get_run(train)
    assert own.data.params["learning_rate"] == "0.0001" and own.data.metrics == {"loss": 0.5, "final_loss": 0.25}
    assert "deepsynth.error" not in own.data.tags
    assert client.get_run(evaluate).data.params == {
        **{name: f'"KFP\'s {name}"' for name in ("config", "base_digest", "champion")},
        "max_pages": "7",
    }
    parent = client.get_run(plugin.pipeline)
    assert parent.info.status == client.get_run(closing).info.status == "RUNNING"
    assert {"train_seconds": 12.0, "adapter_cer": 0.031}.items() <= parent.data.metrics.items()
    expected = {"learning_rate": "0.0001", "evaluate.champion": "reader", "evaluate.max_pages": "7"}
    assert parent.data.params == expected
    assert parent.data.tags["kfp.run_id"] == RUN_ID and parent.data.tags["deepsynth.dataset_digest"] == "ab" * 32
    page = parent.data.tags["mlflow.note.content"]
    assert "| adapter | 3.1% |" in page and f"runs/{evaluate}/artifacts/report.html" in page
    assert f"KFP run [weekly 12](https://kfp.example/#/runs/details/{RUN_ID})" in page


def test_the_runs_of_the_benchmarks_contenders_stay_below_the_benchmark(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = plugin.start("benchmark")
    with step_run("benchmark", {}) as tracked, step_run("benchmark-standard", {}) as nested:
        nested.log_metrics({"loss": 1.0}, step=1)
    assert tracked.run_id == benchmark != nested.run_id
    contender = plugin.client.get_run(nested.run_id)
    assert contender.data.tags["mlflow.parentRunId"] == benchmark and contender.info.status == "FINISHED"


def test_no_setting_is_logged_under_the_name_of_a_tasks_input() -> None:
    components = (tasks.prepare, tasks.train, tasks.evaluate, tasks.benchmark, tasks.gate, tasks.export)
    inputs = {
        name
        for component in components
        for name, one in inspect.signature(component.python_func).parameters.items()
        if one.annotation in (str, int, "str", "int")
    }
    assert inputs <= set(TASK_INPUTS)
    assert set(TASK_INPUTS) & {name for config in STEP_CONFIGS.values() for name in config.model_fields} == {"champion"}
