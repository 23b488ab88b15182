"""The end of a training: the last loss is logged, weights are finite, nothing fails after the adapter is written."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.shared.errors import UserError
from components.train import step
from components.train.config import TrainConfig
from components.train.step import run
from pipelines.task_side.artifact_metadata import describe_adapter
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "backend": "standard",
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 12 training pages: an epoch has three steps."""
    return base_and_dataset(tmp_path_factory.mktemp("made"), boats(20, 3), pages=12, lines_per_page=(3, 3))


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, {**SETTINGS, **changes})


@pytest.fixture(scope="module")
def losses(made: Path) -> list[float]:
    """The losses of all three steps."""
    logged: list[float] = run(config_of(made, made / "every-step")).training.losses
    return logged


@pytest.mark.parametrize(("logging_steps", "loss_steps"), [(10, [3]), (2, [2, 3])])
def test_the_loss_curve_reaches_the_last_step(
    made: Path, losses: list[float], tmp_path: Path, logging_steps: int, loss_steps: list[int]
) -> None:
    training = run(config_of(made, tmp_path / "out", logging_steps=logging_steps)).training.model_dump()
    assert training["loss_steps"] == loss_steps
    means = [sum(losses[start:end]) / (end - start) for start, end in zip([0, *loss_steps], loss_steps, strict=False)]
    assert training["losses"] == pytest.approx(means, rel=1e-5)


def renaming_open_files(unlink: Callable[..., None]) -> Callable[..., None]:
    """Return an ``unlink`` that, like an NFS client, renames a file that a process has open instead of deleting it."""

    def unlinked(path: Any, *, dir_fd: int | None = None) -> None:
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        if any(each.exists() and os.path.samestat(found, each.stat()) for each in Path("/proc/self/fd").iterdir()):
            os.rename(path, f"{os.fspath(path)}.nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            unlink(path, dir_fd=dir_fd)

    return unlinked


def test_checkpoints_on_nfs_are_removed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "unlink", renaming_open_files(os.unlink))
    run(config_of(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_cannot_be_removed_fails_no_finished_training(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = os.unlink

    def busy(path: Any, *, dir_fd: int | None = None) -> None:
        if Path(path).name in {".lock", "optimizer.pt"}:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", busy)
    run(config_of(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    said = [record.getMessage() for record in caplog.records if "cannot be removed" in record.getMessage()]
    assert len(said) == 2 and "checkpoint-3 is not needed any more" in said[0]


# No evaluation is better than the first, so the training stops after its second step.
EARLY_STOPPING: dict[str, Any] = {
    **{"eval_steps": 1, "early_stopping_patience": 1, "eval_pages": 0, "max_eval_samples": 2},
    **{"learning_rate": 1e-30, "lr_scheduler_type": "constant", "max_steps": 9},
}


def test_the_loss_curve_reaches_the_step_of_an_early_stop(made: Path, tmp_path: Path) -> None:
    training = run(config_of(made, tmp_path / "out", logging_steps=10, **EARLY_STOPPING)).training.model_dump()
    assert training["steps"] == 2 and training["loss_steps"] == [2]


def killed_while_saving(config: TrainConfig) -> None:
    """Train, and stop when the adapter would be saved: the last checkpoint exists, the result does not."""

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step, "_save", kill)
        run(config)


def named(checkpoints: Path, step_number: int) -> dict[str, str]:
    (folder,) = checkpoints.glob(f"*/checkpoint-{step_number}")
    return {"resume_from_checkpoint": str(folder)}


@pytest.mark.parametrize("more", [{"max_steps": 5}, {"max_steps": None, "num_train_epochs": 1.5}])
def test_more_steps_go_on_from_the_last_checkpoint(made: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    killed_while_saving(config_of(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints"))
    training = run(
        config_of(made, tmp_path / "out", **more, **named(tmp_path / "checkpoints", 3))
    ).training.model_dump()
    assert training["steps"] == training["loss_steps"][-1] == 5, "1.5 epochs of three steps are five, rounded up"
    assert training["resumed_after_steps"] == [3]


def test_a_checkpoint_bounds_the_steps_from_below(made: Path, losses: list[float], tmp_path: Path) -> None:
    settings = {"checkpoint_dir": tmp_path / "checkpoints", "save_steps": 2}
    killed_while_saving(config_of(made, tmp_path / "out", **settings))
    place = named(tmp_path / "checkpoints", 2)
    with pytest.raises(
        UserError, match=r"checkpoint-2: it is of step 2, and the training ends after 1; raise max_steps"
    ):
        run(config_of(made, tmp_path / "out", max_steps=1, **place))
    training = run(config_of(made, tmp_path / "out", max_steps=2, **place)).training.model_dump()
    assert training["losses"] == losses[:2], "no step is added"


def test_more_steps_change_nothing_in_an_early_stop(made: Path, tmp_path: Path) -> None:
    killed_while_saving(config_of(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints", **EARLY_STOPPING))
    settings = EARLY_STOPPING | {"max_steps": 20} | named(tmp_path / "checkpoints", 2)
    training = run(config_of(made, tmp_path / "out", **settings)).training.model_dump()
    assert (training["steps"], training["best_step"], training["resumed_after_steps"]) == (2, 1, [2])


def test_a_checkpoint_of_an_early_stop_may_have_no_loss(made: Path, tmp_path: Path) -> None:
    settings = EARLY_STOPPING | {"logging_steps": 10, "checkpoint_dir": tmp_path / "checkpoints"}
    config = config_of(made, tmp_path / "out", **settings)
    killed_while_saving(config)
    training = run(config).training.model_dump()
    assert (training["steps"], training["losses"], training["resumed_after_steps"]) == (2, [], [2])
    metrics = dsl.Metrics()
    describe_adapter(dsl.Artifact(uri=str(tmp_path / "out")), metrics)
    assert metrics.metadata == {"steps": 2}
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


WARMED_UP = {"learning_rate": 1e30, "warmup_ratio": 0.3, "lr_scheduler_type": "constant_with_warmup"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"logging_steps": 2}, "the loss became nan at step 3"),
        # The weights become infinite in the last step, after its loss is computed.
        ({"max_steps": 2, "weight_decay": 1e10}, "a trained weight became nan or infinite by step 2"),
    ],
)
def test_weights_that_are_not_finite_are_not_written(
    made: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=f"learning_rate: {said}; lower it, or raise warmup_ratio"):
        run(config_of(made, tmp_path / "out", **WARMED_UP, **changes))
    assert list(tmp_path.iterdir()) == []
