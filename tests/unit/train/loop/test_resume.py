"""Checkpoints: a killed and resumed training ends like an uninterrupted one; damaged checkpoints are skipped."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.shared.errors import UserError
from components.shared.reading.transcriber import Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.config import TrainConfig
from components.train.loop import page_trainer
from components.train.loop.checkpoints import NotFiniteError, damage, seal
from components.train.loop.page_trainer import PageTrainer
from components.train.step import TrainResult, run
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config
from tests.fixtures.training_interruption import once_after, terminated, terminated_after_checkpoint

pytestmark = pytest.mark.slow

# Two epochs of six steps. Dropout depends on the random state of each step, grouping on the epoch.
SETTINGS: dict[str, Any] = {
    "backend": "standard",
    "max_steps": 12,
    "per_device_train_batch_size": 3,
    "learning_rate": 5e-3,
    "lora_dropout": 0.1,
    "group_by_length": True,
    "save_steps": 4,
}
# Times, which differ in a resumed training.
BY_THE_CLOCK = {"step_seconds", "data_wait_seconds", "eval_seconds", "checkpoint_seconds"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 18 training pages of 1 to 6 lines."""
    return base_and_dataset(tmp_path_factory.mktemp("made"), boats(28, 6), pages=18, lines_per_page=(6, 6))


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, {"checkpoint_dir": output.parent / "checkpoints", **SETTINGS, **changes})


@pytest.fixture(scope="module")
def uninterrupted(made: Path) -> TrainResult:
    return run(config_of(made, made / "whole" / "out"))


def assert_ends_like(result: TrainResult, other: TrainResult, resumed_after: list[int]) -> None:
    """Assert that both trainings measured exactly the same values and wrote the same weights."""
    places = {
        "config",
        "versions",
        *BY_THE_CLOCK,
        "peak_memory_bytes",
        "loading_peak_memory_bytes",
        "resumed_after_steps",
    }
    assert {k: v for k, v in result.training.model_dump().items() if k not in places} == {
        k: v for k, v in other.training.model_dump().items() if k not in places
    }
    assert len(result.training.losses) == len(result.training.step_seconds) == SETTINGS["max_steps"]
    assert result.training.resumed_after_steps == resumed_after
    ours, theirs = (load_file(r.folder / "adapter_model.safetensors") for r in (result, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def checkpoint_folders(checkpoint_dir: Path) -> dict[int, Path]:
    return {int(path.name.split("-")[1]): path for path in sorted(checkpoint_dir.glob("training-*/checkpoint-*"))}


# It is killed between its steps 8 and 12.
KILLED = """
import os, runpy, signal
from components.train.loop import page_trainer

seal = page_trainer.seal

def then_killed(folder, step, *others):
    seal(folder, step, *others)
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

page_trainer.seal = then_killed
runpy.run_module("components.train", run_name="__main__", alter_sys=True)
"""


def test_after_kill_9_it_ends_as_if_it_had_not_been_killed(
    made: Path, uninterrupted: TrainResult, tmp_path: Path
) -> None:
    settings = config_of(made, tmp_path / "out").model_dump(mode="json")
    (tmp_path / "train.json").write_text(json.dumps(settings))
    command = [sys.executable, "-c", KILLED, "--config", str(tmp_path / "train.json")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    assert not (tmp_path / "out").exists()
    assert_ends_like(run(config_of(made, tmp_path / "out")), uninterrupted, resumed_after=[8])
    tokens = uninterrupted.training.tokens_per_step
    assert tokens[:6] != tokens[6:], "the second epoch has an order of its own"
    assert list((tmp_path / "checkpoints").iterdir()) == [], "what the finished adapter makes useless is removed"


def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on_from_it(
    made: Path, uninterrupted: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminated(PageTrainer, "training_step"):
        run(config_of(made, tmp_path / "out", save_steps=100))
    ((step, folder),) = checkpoint_folders(tmp_path / "checkpoints").items()
    assert 1 <= step < 12 and damage(folder) is None
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("terminated")]
    assert f"checkpoint-{step} is kept" in line
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) == before
    assert_ends_like(run(config_of(made, tmp_path / "out")), uninterrupted, resumed_after=[step])


@pytest.fixture(scope="module")
def stopped(made: Path) -> Path:
    """The checkpoint folder of a stopped training with two checkpoints: of step 4, and of the step it stopped at."""
    folder = made / "stopped"
    with terminated_after_checkpoint(folder / "checkpoints", 4):
        run(config_of(made, folder / "out"))
    return folder / "checkpoints"


@pytest.fixture
def checkpoints(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "checkpoints"))


def newest(checkpoints: Path) -> Path:
    folders = checkpoint_folders(checkpoints)
    assert len(folders) == 2 and min(folders) == 4
    return folders[max(folders)]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "flipped bit": (lambda folder: flip_a_bit(folder / "trainable.safetensors"), "not what was written"),
    "cut": (lambda folder: (folder / "optimizer.pt").write_bytes(b"PK"), "not what was written"),
    "missing": (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "unfinished": (lambda folder: (folder / "checkpoint.json").unlink(), "not finished"),
    "no JSON": (lambda folder: (folder / "checkpoint.json").write_text('{"files": 3}'), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seen(kind: str, checkpoints: Path) -> None:
    folder = newest(checkpoints)
    assert damage(folder) is None
    act, said = DAMAGES[kind]
    act(folder)
    assert said in str(damage(folder))


def test_early_stopping_counts_on_where_it_was_stopped(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_steps": 1, "early_stopping_patience": 2, "max_eval_samples": 4, "eval_pages": 0}
    settings |= {"learning_rate": 0.3, "lr_scheduler_type": "constant", "save_steps": None, "max_steps": 20}
    whole = run(config_of(made, tmp_path / "whole", **settings)).training.model_dump()
    config = config_of(made, tmp_path / "out", **settings)
    with terminated_after_checkpoint(tmp_path / "checkpoints", 1):
        run(config)
    resumed = run(config).training.model_dump()
    assert 1 <= resumed["resumed_after_steps"][0] < whole["steps"] < 20
    for name in ("losses", "eval_steps", "eval_losses", "best_step"):
        assert resumed[name] == whole[name]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    made: Path, uninterrupted: TrainResult, checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = newest(checkpoints)
    flip_a_bit(damaged / "optimizer.pt")
    result = run(config_of(made, tmp_path / "out"))
    assert_ends_like(result, uninterrupted, resumed_after=[4])
    (warning,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert damaged.name in warning and "optimizer.pt is not what was written" in warning


def test_sigterm_ends_an_evaluation_as_well(made: Path, tmp_path: Path) -> None:
    # After each step, some pages are transcribed one by one.
    config = config_of(made, tmp_path / "out", eval_steps=1, per_device_train_batch_size=1, max_steps=8, save_steps=1)
    with terminated(Transcriber, "read", lambda: list(tmp_path.glob("checkpoints/*/checkpoint-1/checkpoint.json"))):
        run(config)
    last = max(checkpoint_folders(tmp_path / "checkpoints").items())
    measured = json.loads((last[1] / "measurements.json").read_text())
    assert damage(last[1]) is None and len(measured["losses"]) == last[0] > len(measured["eval_losses"])


@pytest.mark.parametrize(
    "changes",
    [
        {"peft": "none", "lora_dropout": 0.0, "learning_rate": 1e-3},
        {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1, "group_by_length": False},
        {"base": "deepseek", "max_steps": 3, "per_device_train_batch_size": 1, "group_by_length": False},
    ],
    ids=["all weights", "accumulated batches and a worker", "deepseek"],
)
def test_every_kind_of_training_resumes(made: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"max_steps": 5, "save_steps": 1, **changes}
    if settings.pop("base", None):
        save_tiny_deepseek_ocr2(tmp_path / "deepseek")
        settings["base_model"] = str(tmp_path / "deepseek")
    whole = run(config_of(made, tmp_path / "whole", **settings))
    config = config_of(made, tmp_path / "out", **settings)
    with terminated_after_checkpoint(tmp_path / "checkpoints", 1):
        run(config)
    resumed = run(config)
    assert 1 <= resumed.training.resumed_after_steps[0] < settings["max_steps"]
    assert resumed.training.losses == whole.training.losses
    assert resumed.training.gradient_norms == whole.training.gradient_norms
    weights = "model.safetensors" if settings.get("peft") == "none" else "adapter_model.safetensors"
    ours, theirs = (load_file(result.folder / weights) for result in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_training_goes_on(
    made: Path, uninterrupted: TrainResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    adapter = (uninterrupted.folder / "adapter_model.safetensors").stat().st_size
    # The optimizer's state has twice the adapter's size: only it cannot be written.
    resource.setrlimit(resource.RLIMIT_FSIZE, (adapter * 3 // 2, hard))
    try:
        result = run(config_of(made, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.training.losses == uninterrupted.training.losses
    assert result.training.failed_checkpoints == 3
    said = [record.getMessage() for record in caplog.records if "no checkpoint at step" in record.getMessage()]
    assert [line.split(",")[0] for line in said] == [f"no checkpoint at step {step}" for step in (4, 8, 12)]


EARLY_STOPPING: dict[str, Any] = {
    **{"eval_steps": 1, "early_stopping_patience": 9, "max_eval_samples": 2, "eval_pages": 0},
    **{"save_steps": None, "checkpoint_dir": None, "max_steps": 4},
}


def test_early_stopping_without_any_checkpoint_keeps_the_last_weights(
    made: Path, uninterrupted: TrainResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    adapter = (uninterrupted.folder / "adapter_model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (adapter * 3 // 2, hard))  # too little for the optimizer's state
    try:
        result = run(config_of(made, tmp_path / "out", **EARLY_STOPPING))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.training.failed_checkpoints == 4 and result.training.best_step is None
    assert "the weights are those of the last step" in caplog.text
    settings = {name: value for name, value in EARLY_STOPPING.items() if name != "early_stopping_patience"}
    last = run(config_of(made, tmp_path / "last", **settings))
    ours, theirs = (load_file(r.folder / "adapter_model.safetensors") for r in (result, last))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("losses", "failing", "best"),
    [([1.0, 2.0, 0.5, 1.5], 3, 1), ([1.0, 2.0, 0.5, 0.7], 3, 4), ([1.0, 2.0, 3.0, 0.5], 4, 1), ([1.0, 3.0, 2.0], 1, 3)],
)
@pytest.mark.parametrize("part", ["save_file", "seal"])
def test_the_best_of_the_checkpoints_that_could_be_written_is_taken(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], failing: int, best: int, part: str
) -> None:
    taken: dict[int, dict[str, torch.Tensor]] = {}
    evaluate, written = PageTrainer._evaluate, getattr(page_trainer, part)

    def scripted(trainer: PageTrainer, *places: Any, **options: Any) -> dict[str, float]:
        step = trainer.state.global_step
        taken[step] = {name: weight.detach().clone() for name, weight in trainer._trainable().items()}
        return {**evaluate(trainer, *places, **options), "eval_loss": losses[step - 1]}

    def failing_once(*places: Any, **options: Any) -> None:
        if len(taken) == failing:
            raise OSError("no space left on device")
        written(*places, **options)

    monkeypatch.setattr(PageTrainer, "_evaluate", scripted)
    monkeypatch.setattr(page_trainer, part, failing_once)
    config = config_of(made, tmp_path / "out", **EARLY_STOPPING, **{"metric_for_best_model": "eval_loss"})
    result = run(config.model_copy(update={"max_steps": len(losses)}))
    assert result.training.failed_checkpoints == 1 and result.training.best_step == best
    assert result.training.steps == len(losses)
    ours = load_file(result.folder / "adapter_model.safetensors")
    for name, weight in taken[best].items():
        assert torch.equal(ours[name.replace(".default.", ".")], weight), name


def test_never_starts_anew(made: Path, uninterrupted: TrainResult, checkpoints: Path, tmp_path: Path) -> None:
    result = run(config_of(made, tmp_path / "out", resume_from_checkpoint="never"))
    assert_ends_like(result, uninterrupted, resumed_after=[])


def test_a_finished_training_that_was_killed_while_it_saved_adds_no_step(
    made: Path, uninterrupted: TrainResult, tmp_path: Path
) -> None:
    config = config_of(made, tmp_path / "out")
    (tmp_path / "out").mkdir()
    blocked = tmp_path / "out" / "file"
    written = lambda: list(tmp_path.glob("checkpoints/*/checkpoint-12"))  # noqa: E731
    with (
        pytest.raises(UserError, match=r"cannot be moved to its place \(Directory not empty\); it is kept in"),
        once_after(page_trainer, "seal", written, lambda: blocked.write_text("in the way")),
    ):
        run(config)
    assert sorted(checkpoint_folders(tmp_path / "checkpoints")) == [8, 12]
    blocked.unlink()
    assert_ends_like(run(config), uninterrupted, resumed_after=[12])


def test_a_named_checkpoint_has_to_be_whole_and_of_this_training(
    made: Path, uninterrupted: TrainResult, checkpoints: Path, tmp_path: Path
) -> None:
    folder = checkpoint_folders(checkpoints)[4]
    place = {"checkpoint_dir": None, "save_steps": None, "resume_from_checkpoint": str(folder)}
    assert_ends_like(run(config_of(made, tmp_path / "out", **place)), uninterrupted, resumed_after=[4])
    with pytest.raises(UserError, match=r"other settings: r \(r was 16 and is 8\); set them as they were"):
        run(config_of(made, tmp_path / "other", r=8, **place))
    flip_a_bit(folder / "trainable.safetensors")
    with pytest.raises(UserError, match=r"no whole checkpoint: trainable\.safetensors is not what was written"):
        run(config_of(made, tmp_path / "other", **place))
    with pytest.raises(UserError, match=r"nowhere.*no whole checkpoint"):
        run(config_of(made, tmp_path / "other", **{**place, "resume_from_checkpoint": "nowhere"}))


def test_other_settings_leave_the_checkpoints_alone(made: Path, checkpoints: Path, tmp_path: Path) -> None:
    before = checkpoint_folders(checkpoints)
    result = run(config_of(made, tmp_path / "out", max_steps=1, r=8))
    assert result.training.resumed_after_steps == []
    assert checkpoint_folders(checkpoints) == before


def test_two_trainings_do_not_share_checkpoints(made: Path, checkpoints: Path, tmp_path: Path) -> None:
    (training,) = checkpoints.iterdir()
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", holder, str(training / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(UserError, match="another process trains with these settings"):
            run(config_of(made, tmp_path / "out"))
        other.communicate(b"\n")


def test_a_checkpoint_with_nan_is_not_sealed(checkpoints: Path) -> None:
    folder = newest(checkpoints)
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"][0, 0] = float("nan")
    torch.save(state, folder / "optimizer.pt")
    with pytest.raises(NotFiniteError, match="exp_avg of parameter 0"):
        seal(folder, 8, False, {})
