"""The exit task, after runs that end before their first step because the data are unchanged, and after failed runs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.shared.errors import UserError
from components.shared.tracking import model_registry
from pipelines.task_side.resolution import resolve, say_decision
from pipelines.task_side.step_settings import TRAIN, UNCHANGED, StepSettings

RUN_ID = "0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    return json.dumps({"source": str(tmp_path / "rows.jsonl"), "evaluate": {"champion": "page-reader"}})


def champion_of(config: str, **tags: str) -> None:
    version = model_registry.register(Path(__file__).parent, "page-reader", tags)
    model_registry.set_alias(version, "champion")


def decision(config: str, skip: bool = True) -> str:
    return resolve(config, {}, skip_if_unchanged=skip).decision


def runs_of(experiment: str) -> list[Run]:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_nothing_is_trained_only_where_the_champion_was_trained_on_the_same_content(config: str) -> None:
    assert decision(config) == TRAIN, "there is no champion yet"
    champion_of(config)
    assert decision(config) == TRAIN, "one of before this tag was written"
    champion_of(config, source_digest=resolve(config, {}).source_digest)
    assert decision(config) == UNCHANGED
    assert decision(config, skip=False) == TRAIN
    source = Path(json.loads(config)["source"])
    rows = source.read_text()
    source.write_text(rows + '{"text": "A third."}\n')
    assert decision(config) == TRAIN
    source.write_text(rows)
    assert decision(config) == UNCHANGED


def test_without_a_registry_a_scheduled_run_fails_and_does_not_guess(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(UserError, match="there is no registry"):
        decision(config)


def test_the_page_says_what_the_run_does(config: str, tmp_path: Path) -> None:
    settings = resolve(config, {})
    say_decision(settings, str(tmp_path / "plan.md"))
    assert f"The run trains on the data `{settings.source_digest}`" in (tmp_path / "plan.md").read_text()
    unchanged = StepSettings(**settings._asdict() | {"decision": UNCHANGED, "champion": "page-reader version 3"})
    say_decision(unchanged, str(tmp_path / "plan.md"))
    assert "Nothing is trained: page-reader version 3, the champion" in (tmp_path / "plan.md").read_text()


def pipeline_run(folder: Path, **parameters: object) -> subprocess.CompletedProcess[str]:
    """Run the pipeline in KFP's subprocess runner, in its own process."""
    program = f"""
        from pathlib import Path
        from kfp import local
        from pipelines.local.local_compilation import compiled_without_unset_parameters
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root={str(folder / "root")!r})
        compiled_without_unset_parameters(Path({str(folder / "pipeline.yaml")!r}), 1)(**{parameters!r})
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=folder, capture_output=True, text=True)


def tasks_of(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("root/*/*/executor_output.json")}


@pytest.mark.slow
def test_a_run_on_unchanged_data_starts_no_step_and_ends_as_a_success(config: str, tmp_path: Path) -> None:
    champion_of(config, source_digest=resolve(config, {}).source_digest)
    answer = pipeline_run(tmp_path, config=config, skip_if_unchanged=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert tasks_of(tmp_path) == {"configure", "close-run"}
    (plan,) = tmp_path.glob("root/*/configure/plan")
    assert "Nothing is trained: page-reader version 1" in plan.read_text()
    (run,) = runs_of("deepsynth")
    assert run.info.status == "FINISHED" and run.data.tags["kfp.run_id"] == RUN_ID
    assert run.data.tags["deepsynth.decision"] == "unchanged"
    assert "Nothing is trained: page-reader version 1" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_the_exit_task_closes_the_run_of_a_pipeline_that_failed(config: str, tmp_path: Path) -> None:
    # Two copies are one document, which cannot be split into training pages and held-out pages: prepare reports that.
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n' * 2)
    answer = pipeline_run(tmp_path, config=json.dumps({"source": str(tmp_path / "rows.jsonl")}))
    assert answer.returncode != 0 and "Inner task failed" in answer.stderr
    assert "close-run" in tasks_of(tmp_path) and "train" not in tasks_of(tmp_path)
    runs = {run.data.tags.get("deepsynth.step", run.info.run_name): run.info.status for run in runs_of("deepsynth")}
    # KFP's local runner puts its own run's name in the placeholder's place.
    assert runs == {"prepare": "FAILED", **{name: "FAILED" for name in runs if name.startswith("deepsynth-finetune")}}
    assert len(runs) == 2
