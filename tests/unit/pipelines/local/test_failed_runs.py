"""What `deepsynth run` keeps of a failed run: the log, and the outputs of the finished steps."""

import errno
import os
import sys
import textwrap
from pathlib import Path

import pytest

from components.shared.errors import StepFailedError, UserError
from components.shared.programs.machine_failures import MachineFailureError, named_failures
from pipelines.comparison.local_runs import local_folder
from pipelines.local.local_runner import run_pipeline
from pipelines.settings.pipeline_config import pipeline_config

# Replaces the process that runs KFP: prepare and train finish, then evaluate fails or the process simply ends. With
# the exit code None all steps of the pipeline end well.
STEPS = """\
    import json, os, pathlib, sys
    job = pathlib.Path(sys.argv[-1])
    events = open(os.environ["DEEPSYNTH_PROGRESS_FILE"], "a")
    def tell(**event):
        print(json.dumps({"time": 1.0} | event), file=events, flush=True)
    for step in FINISHED:
        output = job.parent / "deepsynth-finetune-1" / step / "output"
        output.mkdir(parents=True)
        (output / "made.txt").write_text(CONTENT)
        tell(event="start", step=step)
        tell(event="end", step=step, output_dir=str(output))
        tell(event="warning", step=step, message="few documents")
    if EXIT_CODE is None:
        sys.exit(0)
    tell(event="start", step="evaluate")
    if EXIT_CODE:
        tell(event="error", step="evaluate", message="no pages", exit_code=EXIT_CODE)
    print("evaluate's last words", flush=True)
    sys.exit(1)
"""


def failing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: tuple[str, ...] = ("prepare", "train"),
    content: str = "x",
    exit_code: int | None = 2,
) -> Exception:
    """Run the pipeline as run r1 in ``folder``, with the steps above; return its error."""
    program = folder / "steps"
    constants = f"FINISHED, CONTENT, EXIT_CODE = {finished!r}, {content!r}, {exit_code}\n"
    program.write_text(f"#!{os.path.realpath(sys.executable)}\n{constants}{textwrap.dedent(STEPS)}")
    program.chmod(0o755)
    with monkeypatch.context() as patched, pytest.raises((UserError, StepFailedError)) as caught:
        patched.setattr(sys, "executable", str(program))
        run_pipeline(pipeline_config({}, "test"), folder / "runs", "r1")
    return caught.value


@pytest.mark.parametrize("exit_code", [2, 1, 0])
def test_what_the_finished_steps_made_outlives_a_later_steps_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int
) -> None:
    error = failing(tmp_path, monkeypatch, exit_code=exit_code)
    assert str(error).startswith("evaluate: ")
    assert isinstance(error, UserError if exit_code == 2 else StepFailedError)
    failed = tmp_path / "runs" / "r1.failed"
    assert {path.name for path in failed.iterdir()} == {"dataset", "adapter", "config.yaml", "pipeline.log"}
    assert (failed / "adapter" / "made.txt").read_text() == "x"
    assert {path.name for path in failed.parent.iterdir()} == {"r1.failed", "r1.failed.log"}
    assert "evaluate's last words" in (failed.parent / "r1.failed.log").read_text()
    assert error.__notes__ == [
        f"outputs of the finished steps: {failed}",
        "go on with: deepsynth run --resume r1",
        f"log: {failed}.log",
    ]


def test_a_warning_is_shown_once_and_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(tmp_path, monkeypatch)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("warning", "[1/7]", "[2/7]"))]
    assert shown[1].startswith("[1/7] prepare done") and shown[2:4] == ["warning: few documents", "[2/7] train ..."]
    assert shown.count("warning: few documents") == 1


def test_what_the_steps_made_outlives_a_summary_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failing(tmp_path, monkeypatch, finished=("prepare", "train", "evaluate", "gate"), exit_code=None)
    assert "report.json: cannot be read" in str(error), "the evaluation above leaves none"
    failed = tmp_path / "runs" / "r1.failed"
    made = {"dataset", "adapter", "evaluation", "gate"}
    assert {path.name for path in failed.iterdir()} == made | {"config.yaml", "pipeline.log"}
    assert (failed / "adapter" / "made.txt").read_text() == "x"
    assert "go on with: deepsynth run --resume r1" in error.__notes__


def test_the_notes_of_an_error_stay_where_a_failure_of_the_machine_is_named() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    full.add_note("go on with: deepsynth run --resume r1")
    with pytest.raises(MachineFailureError) as caught, named_failures("deepsynth"):
        raise full
    assert caught.value.__notes__ == ["go on with: deepsynth run --resume r1"]


def test_a_later_failure_of_the_same_id_takes_the_place_only_where_a_step_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(tmp_path, monkeypatch, content="first")
    failing(tmp_path, monkeypatch, finished=())
    kept = tmp_path / "runs" / "r1.failed"
    assert (kept / "adapter" / "made.txt").read_text() == "first", "nothing newer is there to replace it"
    failing(tmp_path, monkeypatch, finished=("prepare",), content="second")
    assert not (kept / "adapter").exists() and (kept / "dataset" / "made.txt").read_text() == "second"


def test_no_step_finished_leaves_the_log_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(tmp_path, monkeypatch, finished=())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["r1.failed.log"]


def test_a_failed_run_is_no_finished_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(tmp_path, monkeypatch)
    for name, said in (("r1", "the run failed"), ("r1.failed", "not a finished run")):
        with pytest.raises(UserError, match=said):
            local_folder(name, tmp_path / "runs")
