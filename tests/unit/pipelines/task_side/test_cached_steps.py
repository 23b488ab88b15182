"""A pipeline run whose steps KFP's cache answered: its MLflow parent, its table, and its comparison with others."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.tracking import headline
from components.shared.tracking.cached_steps import BENCHMARK_INPUTS_TAG, benchmark_inputs, note_cached_benchmark
from components.shared.tracking.pipeline_run import close_pipeline_run, name_pipeline_run
from components.shared.tracking.step_run import step_run
from pipelines.task_side.tracked_artifacts import name_run, note_cached_inputs
from tests.fixtures.cluster_command import Shell
from tests.fixtures.finished_runs import FOLDERS, finished_run
from tests.fixtures.kfp_api_server import kfp_api_server

EARLIER, LATER = "0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1", "4f1c2d3e-0000-4000-8000-000000000000"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "KFP_")):
            monkeypatch.delenv(name)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


@pytest.fixture
def artifacts(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The artifacts of an earlier pipeline run, as KFP's cache keeps them: their files and their metadata."""
    folder = finished_run(tmp_path / "runs", "earlier", [20, 30, 40, 50] * 6)
    monkeypatch.setenv("KFP_RUN_ID", EARLIER)
    name_pipeline_run("monday", "", {BENCHMARK_INPUTS_TAG: benchmark_inputs("{}", "base")})
    made: dict[str, Any] = {}
    record, report = TrainingRecord.read(folder / "adapter"), EvaluationReport.read(folder / "evaluation")
    figures = {"train": headline.of_training(record), "evaluate": headline.of_evaluation(report)}
    figures["benchmark"] = {"benchmark_samples_per_second_ratio_to_standard": 1.7}
    for step in ("prepare", "train", "evaluate", "benchmark"):
        with step_run(step, {"seed": 3, "learning_rate" if step == "train" else "max_pages": 7}) as tracked:
            tracked.log_dataset(report.dataset.digest, "letters", "training")
            tracked.summarize(figures.get(step, {}))
            if step == "evaluate":
                for file in (EvaluationReport.FILE, "samples.parquet"):
                    tracked.log_artifact(folder / "evaluation" / file)
        made[step] = dsl.Artifact(uri=str(folder / FOLDERS[step]))
        name_run(made[step], step, **made)
    close_pipeline_run("SUCCEEDED")
    monkeypatch.setenv("KFP_RUN_ID", LATER)
    return made


def gate_and_close(tmp_path: Path, evaluation: dsl.Artifact, state: str = "COMPLETE") -> None:
    """Run the two tasks that KFP never takes from its cache, as its executor calls them."""
    program = f"""
        from kfp import dsl
        from pipelines.definition import tasks
        from components.shared.tracking.cached_steps import BENCHMARK_INPUTS_TAG, benchmark_inputs
        from components.shared.tracking.pipeline_run import name_pipeline_run
        from pipelines.task_side.closing_task import close_run
        name_pipeline_run("tuesday", "", {{BENCHMARK_INPUTS_TAG: benchmark_inputs("{{}}", "base")}})
        tasks.gate.python_func(
            config={json.dumps({"min_documents": 99})!r},
            evaluation=dsl.Artifact(uri={evaluation.uri!r}, metadata={evaluation.metadata!r}),
            verdict=dsl.Artifact(uri={str(tmp_path / "verdict")!r}),
            summary=dsl.Markdown(uri={str(tmp_path / "verdict.md")!r}),
        )
        close_run({state!r})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, env=dict(os.environ))


def runs_of(client: MlflowClient, pipeline_run: str) -> tuple[Run, dict[str, Run]]:
    """Return the parent and its steps' runs."""
    found = client.search_runs(["1"], f"tags.`kfp.run_id` = '{pipeline_run}'")
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parent, {run.data.tags["deepsynth.step"]: run for run in found if run is not parent}


def test_the_parent_of_a_cached_run_has_the_figures_and_links_of_the_runs_that_did_the_work(
    client: MlflowClient,
    artifacts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, steps = runs_of(client, EARLIER)
    metadata = artifacts["evaluate"].metadata
    assert metadata["mlflow_run_id"] == steps["evaluate"].info.run_id and metadata["mlflow_experiment_id"] == "1"
    assert metadata["train_mlflow_run_id"] == steps["train"].info.run_id

    gate_and_close(tmp_path, artifacts["evaluate"])
    after, own = runs_of(client, LATER)
    assert set(own) == {"gate"} and after.info.status == "FINISHED"
    verdict = {name: value for name, value in after.data.metrics.items() if name.startswith("cer_improvement")}
    assert verdict and after.data.metrics == before.data.metrics | verdict
    assert {"train_loss", "adapter_cer", "benchmark_samples_per_second_ratio_to_standard"} <= set(after.data.metrics)
    assert before.data.params.items() <= after.data.params.items()
    assert after.data.tags["deepsynth.dataset_digest"] == before.data.tags["deepsynth.dataset_digest"]
    page = after.data.tags["mlflow.note.content"]
    for step in ("prepare", "train", "evaluate", "benchmark"):
        run = steps[step].info.run_id
        assert after.data.tags[f"deepsynth.cached.{step}"] == run
        assert f"{step} was cached by KFP: [monday · {step}](#/experiments/1/runs/{run})" in page
    assert f"{steps['evaluate'].info.run_id}/artifacts/report.html" in page

    uri = os.environ["MLFLOW_TRACKING_URI"]
    shell = Shell(tmp_path, monkeypatch, capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with kfp_api_server() as kfp:
        kfp.runs[LATER] = {"run_id": LATER, "state": "PENDING", "display_name": "tuesday"}
        answer = shell("follow", LATER, "--host", kfp.url, "--poll-seconds", "0.05")
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if " adapter " in line]
    assert "3.50%" in line and "not promoted:" in answer.out
    compared = shell("compare", "earlier", LATER)
    assert compared.code == 0, compared.err
    assert "evaluate was cached by KFP: MLflow run " in " ".join(compared.out.split())


def test_a_cached_evaluation_whose_mlflow_run_is_gone_still_gives_its_figures(
    client: MlflowClient, artifacts: dict[str, Any]
) -> None:
    note_cached_inputs("gate", evaluate=dsl.Artifact(uri=artifacts["evaluate"].uri))
    parent, _ = runs_of(client, LATER)
    assert parent.data.metrics["adapter_cer"] == pytest.approx(0.035)
    assert "deepsynth.cached.evaluate" not in parent.data.tags


def test_another_benchmark_is_not_taken_for_this_runs(client: MlflowClient, artifacts: dict[str, Any]) -> None:
    name_pipeline_run("tuesday", "", {BENCHMARK_INPUTS_TAG: benchmark_inputs('{"repeats": 5}', "base")})
    note_cached_inputs("gate", evaluate=artifacts["evaluate"])
    with step_run("gate", {}):  # the run's last step
        pass
    note_cached_benchmark()
    parent, _ = runs_of(client, LATER)
    assert "deepsynth.cached.train" in parent.data.tags and "deepsynth.cached.benchmark" not in parent.data.tags
    assert not [name for name in parent.data.metrics if name.startswith("benchmark_")]
    name_pipeline_run("tuesday", "", {BENCHMARK_INPUTS_TAG: benchmark_inputs("{}", "base")})
    note_cached_benchmark()
    assert "deepsynth.cached.benchmark" in runs_of(client, LATER)[0].data.tags


def test_a_step_of_the_same_pipeline_run_is_not_cached(
    client: MlflowClient, artifacts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", EARLIER)
    with step_run("gate", {}):
        pass
    before, _ = runs_of(client, EARLIER)
    note_cached_inputs("gate", evaluate=artifacts["evaluate"])
    note_cached_benchmark()
    parent, _ = runs_of(client, EARLIER)
    assert parent.data.tags == before.data.tags
