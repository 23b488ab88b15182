"""The compiled pipeline for real, with every step, in KFP's subprocess runner; and runs that are interrupted."""

import json
import re
import signal
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from tests.pipeline.deepsynth_run import (
    DEEPSYNTH,
    command,
    finish,
    finish_well,
    started,
    tasks_of,
    tracked_runs,
    wait_for,
)

STEPS = {"prepare", "train", "evaluate", "benchmark", "gate", "export"}
SETTINGS = {"prepare.max_documents": 12, "prepare.max_train_pages": 16, "prepare.max_eval_pages": 4}
EVERY_STEP = {
    # A blank model learns nothing in two steps, so the gate accepts any answer; CER can exceed 1.
    "gate.min_improvement": -1000,
    "gate.min_documents": 2,
    "gate.max_loop_rate_increase": 1,
    "export.verify": "true",
}


@dataclass(frozen=True)
class FinishedRun:
    root: Path
    model: Path
    output: str
    progress: str

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "r1"

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    root, output, progress = finish_well(command(SETTINGS | EVERY_STEP | {"base_model": model}), tmp_path_factory)
    return FinishedRun(root, model, output, progress)


def test_the_run_folder_holds_everything_and_nothing_else(finished: FinishedRun) -> None:
    assert {path.name for path in finished.folder.iterdir()} == {
        "dataset",
        "adapter",
        "evaluation",
        "benchmark",
        "gate",
        "package",
        "pipeline.log",
        "config.yaml",
        "summary.json",
    }
    assert {path.name for path in (finished.root / "runs").iterdir()} - {".checkpoints"} == {
        "r1",
        "mlflow.db",
        "mlartifacts",
    }
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert config["train"]["max_steps"] == 2 and config["base_model"] == str(finished.model)
    training = json.loads((finished.folder / "adapter" / "training.json").read_text())
    assert len(training["step_seconds"]) == 2


def test_the_folder_and_mlflow_say_the_same_of_the_run(finished: FinishedRun) -> None:
    parent = tracked_runs(finished.root).parent.info.run_id
    answer = finish([DEEPSYNTH, "compare", "r1", parent, "-o", str(finished.model.parent / "r1.html")], finished.root)
    assert answer.returncode == 0, answer.stderr
    for title in ("Configuration", "Data", "Versions"):
        assert f"{title}: no difference is known" in answer.stdout, answer.stdout
    # The rows that may differ: where each run was read from, and the times, because starting processes takes time.
    differing = [line.split("│")[2].strip() for line in answer.stdout.splitlines() if line.startswith("│ ≠")]
    assert set(differing) <= {"read from", "finished (UTC)", *STEPS, "total"}
    assert "equal: both adapters have the same CER" in answer.stdout


def test_the_summary_holds_the_reports_figures(finished: FinishedRun) -> None:
    summary = finished.summary()
    report = json.loads((finished.folder / "evaluation" / "report.json").read_text())
    assert [row["name"] for row in summary["rows"]][:2] == ["base", "adapter"]
    for shown, reported in zip(summary["rows"], report["rows"], strict=True):
        assert all(reported[name] == value for name, value in shown.items())
    assert set(summary["seconds_per_step"]) == {"configure", *STEPS}
    assert summary["seconds_total"] > sum(summary["seconds_per_step"].values())
    assert summary["dataset_digest"] == report["dataset"]["digest"]
    assert summary["benchmark"]["runs"][0]["status"] == "ok"
    verdict = json.loads((finished.folder / "gate" / "verdict.json").read_text())
    assert verdict["promoted"] and verdict["reference"] == "base"
    assert verdict["dataset_digest"] == summary["dataset_digest"]
    assert summary["gate"]["decision"] == "promoted"
    assert all(verdict[name] == value for name, value in summary["gate"].items() if name != "decision")
    assert summary["peak_memory_bytes"]["all_processes"] > 100 * 2**20
    for path in summary["paths"].values():
        assert (finished.folder / path).exists(), path
    assert zipfile.ZipFile(finished.folder / summary["paths"]["package"]).testzip() is None


def test_the_output_shows_steps_table_and_places(finished: FinishedRun) -> None:
    assert finished.progress.count("done in") == 7
    assert "[1/7] configure ..." in finished.progress
    row = finished.summary()["rows"][1]
    (line,) = [line for line in finished.output.splitlines() if " adapter " in line and "│" in line]
    assert f"{row['cer']:.2%}" in line and f"{row['wer']:.2%}" in line
    assert f"promoted:     {finished.summary()['gate']['reason']}" in finished.output
    for place in ("evaluation/report.html", "runs/mlflow.db", finished.summary()["paths"]["package"], "benchmark:"):
        assert place in finished.output


def test_mlflow_has_one_parent_and_a_nested_run_per_step(finished: FinishedRun) -> None:
    tracked = tracked_runs(finished.root)
    client, parent, nested = tracked.client, tracked.parent, tracked.nested
    assert parent.data.tags["kfp.run_id"] == "r1" and parent.info.status == "FINISHED"
    assert parent.info.run_name == "r1" and parent.data.tags["kfp.run_page"].endswith("/runs/r1")
    (dataset,) = parent.inputs.dataset_inputs
    assert dataset.tags[0].value == "training, evaluation"
    assert set(nested) == STEPS
    assert {run.info.status for run in nested.values()} == {"FINISHED"}
    used = yaml.safe_load((finished.folder / "config.yaml").read_text())["train"]["learning_rate"]
    assert float(nested["train"].data.params["learning_rate"]) == used
    assert [point.step for point in client.get_metric_history(nested["train"].info.run_id, "loss")] == [1, 2]
    digest = finished.summary()["dataset_digest"]
    for step in ("train", "evaluate"):
        (dataset,) = nested[step].inputs.dataset_inputs
        assert digest.startswith(dataset.dataset.digest)
    assert "report.html" in {entry.path for entry in client.list_artifacts(nested["evaluate"].info.run_id)}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the temporary files of the run's programs."""
    (folder := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_run_leaves_nothing_that_looks_finished(
    model: Path, tmp_path: Path, scratch: Path, number: signal.Signals, code: int
) -> None:
    process, said = started(command(SETTINGS | {"base_model": model}), tmp_path, until="prepare ...")
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(timeout=300) == code
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left <= {"mlflow.db", "mlartifacts"}
    assert not list(scratch.glob("*deepsynth-*"))
    error = said.read_text()
    assert "interrupted\nno step had finished, and nothing was kept" in error and "Traceback" not in error


@pytest.mark.slow
def test_a_run_interrupted_while_training_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"base_model": model, "train.max_steps": 100}
    process, said = started(command(settings), tmp_path, until="train ...")
    (events,) = tmp_path.glob("runs/.r1.partial-*/kfp/events.jsonl")
    trained = re.compile(r'"description": "train", "done": [2-9]')
    wait_for(lambda: trained.search(events.read_text()) is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    assert "go on with: deepsynth run --resume r1" in said.read_text()
    failed = tmp_path / "runs" / "r1.failed"
    assert {"dataset", "config.yaml", "pipeline.log"} <= {path.name for path in failed.iterdir()}
    manifest = (failed / "dataset" / "manifest.json").read_bytes()

    changed = finish([DEEPSYNTH, "run", "--resume", "r1", "--set", "seed=1"], tmp_path)
    assert changed.returncode == 2 and "a resumed run has its own settings" in changed.stderr
    answer = finish([DEEPSYNTH, "run", "--resume", "r1"], tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "prepare (kept) done" in answer.stderr and "train (kept)" not in answer.stderr
    training = json.loads((tmp_path / "runs" / "r1" / "adapter" / "training.json").read_text())
    assert training["steps"] == 100 and training["resumed_after_steps"]
    assert (tmp_path / "runs" / "r1" / "dataset" / "manifest.json").read_bytes() == manifest
    assert not failed.exists() and not list((tmp_path / "runs").glob(".checkpoints/r1/*"))
    again = finish([DEEPSYNTH, "run", "--resume", "r1"], tmp_path)
    assert again.returncode == 2 and "this run ended well" in again.stderr


@pytest.mark.slow
def test_a_run_whose_command_is_killed_outright_ends_its_steps(model: Path, tmp_path: Path, scratch: Path) -> None:
    process, _ = started(command(SETTINGS | {"base_model": model}), tmp_path, until="prepare ...")
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert not (tmp_path / "runs" / "r1").exists() and not list(scratch.glob("*deepsynth-*"))


@pytest.mark.slow
def test_a_step_that_is_killed_is_an_error_with_its_log_kept(model: Path, tmp_path: Path) -> None:
    process, said = started(command(SETTINGS | {"base_model": model}), tmp_path, until="prepare ...")
    tasks_of(process)[-1].kill()  # as the kernel does when memory runs out
    assert process.wait(timeout=300) == 1
    error = said.read_text()
    assert "error: prepare: its process ended without an error of its own" in error and "Traceback" not in error
    assert "Inner task failed" in (tmp_path / "runs" / "r1.failed.log").read_text()
    assert not (tmp_path / "runs" / "r1").exists()


@pytest.mark.slow
def test_the_adapter_outlives_an_evaluation_that_is_killed(model: Path, tmp_path: Path) -> None:
    process, _ = started(command(SETTINGS | {"base_model": model}), tmp_path, until="evaluate ...")
    tasks_of(process)[-1].kill()
    assert process.wait(timeout=300) == 1
    failed = tmp_path / "runs" / "r1.failed"
    kept = {path.name for path in failed.iterdir()} - {"benchmark"}  # KFP runs it before or after evaluate
    assert kept == {"dataset", "adapter", "config.yaml", "pipeline.log"}
    assert (failed / "adapter" / "adapter_model.safetensors").is_file()
    assert not list((tmp_path / "runs").glob(".r1.partial-*"))
    answer = finish([DEEPSYNTH, "run", "--resume", "r1"], tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "train (kept) done" in answer.stderr and (tmp_path / "runs" / "r1" / "summary.json").is_file()
