"""``deepsynth run --dry-run``: what would run, how long, in which memory; and nothing is run."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.command_line import app
from pipelines.planning.dry_run import RunPlan
from pipelines.planning.earlier_runs import StepTimes, longest_row, predicted_times
from pipelines.settings.command_settings import checked_config
from pipelines.task_side.step_settings import StepSettings
from tests.fixtures.finished_runs import finished_run

STEPS = ["prepare", "train", "evaluate", "benchmark", "gate", "export"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run: 20.25 s of training, in three steps of 0.25, 0.5 and 0.75 s."""
    folder = tmp_path_factory.mktemp("earlier")
    finished_run(folder, "r1", [100] * 12, max_steps=3)
    return folder


def test_times_are_those_of_the_newest_run_that_did_the_same(runs: Path) -> None:
    config = runs / "r1" / "config.yaml"

    def seconds(*settings: str) -> dict[str, float]:
        found = predicted_times(checked_config(config, list(settings)), runs, STEPS)
        assert {*found.seconds, *found.unknown} == set(STEPS)
        return found.seconds

    assert seconds() == {"prepare": 1.5, "train": 20.25}
    # Another learning rate takes as long; more steps take the measured ones' median each; more pages are not known.
    assert seconds("train.learning_rate=0.5") == seconds()
    assert seconds("train.max_steps=103")["train"] == pytest.approx(20.25 - 1.5 + 103 * 0.5)
    assert seconds("train.per_device_train_batch_size=7") == {"prepare": 1.5}
    assert seconds("prepare.max_train_pages=7") == {}
    assert predicted_times(checked_config(config, []), runs / "nowhere", STEPS).unknown == STEPS


def test_a_training_record_of_another_version_predicts_nothing_and_refuses_no_run(tmp_path: Path) -> None:
    finished_run(tmp_path, "r1", [100] * 12, max_steps=3)
    config = checked_config(tmp_path / "r1" / "config.yaml", [])
    record = tmp_path / "r1" / "adapter" / "training.json"
    assert longest_row(config, tmp_path) is not None
    record.write_text('{"schema_version": 99}')
    assert longest_row(config, tmp_path) is None
    assert predicted_times(config, tmp_path, STEPS).seconds["prepare"] == 1.5


def test_a_dry_run_says_what_would_run_and_leaves_nothing(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name in ("one", "two"):
        (tmp_path / "pages" / f"{name}.txt").write_text(f"Text {name}.")
    source = [f"--set=source={tmp_path / 'pages'}", "--set=prepare.eval_fraction=0.5", "--skip=benchmark"]
    before = sorted(tmp_path.rglob("*"))
    answer = CliRunner().invoke(app, ["run", "--dry-run", f"--runs-dir={tmp_path / 'runs'}", *source])
    assert answer.exit_code == 0, answer.output
    lines = dict(line.split(":", 1) for line in answer.stdout.splitlines())
    assert lines["would run"].split(", ")[-1] == "export if the gate promotes" and "benchmark" not in lines["would run"]
    assert "GiB on a GPU" in lines["memory"] and "no earlier run" in lines["time"]
    assert lines["reused"].strip() == "nothing" and "champion: none" in lines["settings"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["run", "--dry-run", f"--runs-dir={tmp_path}", "--set=source=./nowhere"])
    assert answer.exit_code != 0 and "no such file or folder" in str(answer.exception)


def test_a_time_of_all_steps_is_told_only_where_each_is_known() -> None:
    def told(seconds: dict[str, float], unknown: list[str]) -> str:
        times = StepTimes(seconds, ["r1"], unknown)
        plan = RunPlan(StepSettings(*[""] * 11), [], [], None, times, "")
        return plan.lines()[-1].removeprefix("time:").strip()

    assert told({"prepare": 60.0, "train": 600.0}, []) == "about 11 min: prepare 60 s, train 10 min, as in r1"
    few = told({"gate": 0.4}, ["prepare", "train"])
    assert few == "gate 0 s, as in r1; not known, as no earlier run had these settings: prepare, train"
