"""A training whose device runs out of memory goes on with half the micro-batch, and ends as without that."""

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from transformers import PaddleOCRVLForConditionalGeneration

from components.shared.artifacts.training_record import TrainingRecord
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.programs.machine_failures import named_failure
from components.train.estimate import fitting_batch
from components.train.estimate.fitting_batch import largest_fitting
from components.train.estimate.gpu_limits import needed_bytes
from components.train.estimate.memory_estimate import estimate_memory
from components.train.estimate.preflight import largest_pages
from components.train.loop.training import OutOfMemoryWhileTrainingError
from components.train.step import run
from tests.fixtures.small_device import IN_THE_SECOND_PROCESS, NO_ROOM, small_device
from tests.fixtures.training_fixture import SHORT_TRAINING, base_and_boats, several_processes_on_a_cpu, train_config

SETTINGS = SHORT_TRAINING


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with several_processes_on_a_cpu():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 18 training pages of 1 to 6 lines."""
    return base_and_boats(tmp_path_factory.mktemp("made"))


def trained(made: Path, output: Path, **settings: Any) -> TrainingRecord:
    return run(train_config(made, output, {**SETTINGS, **settings})).training


@pytest.fixture(scope="module")
def undisturbed(made: Path) -> Path:
    trained(made, made / "undisturbed")
    return made / "undisturbed"


class SmallDevice:
    """Lets the model's passes fail as on a device without memory; ``passes`` has the rows of each."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> None:
        self.passes: list[int] = []
        forward = PaddleOCRVLForConditionalGeneration.forward

        @functools.wraps(forward)  # generate() reads its signature
        def limited(model: Any, input_ids: Any = None, **inputs: Any) -> Any:
            self.passes.append(len(input_ids))
            if fails(len(input_ids), len(self.passes)):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(model, input_ids=input_ids, **inputs)

        patch.setattr(PaddleOCRVLForConditionalGeneration, "forward", limited)


def assert_ends_like(output: Path, other: Path) -> None:
    """Assert the same pages in each step, and the same losses and weights up to the order of summation."""
    training, expected = TrainingRecord.read(output), TrainingRecord.read(other)
    for name in ("steps", "samples_per_step", "tokens_per_step", "loss_steps", "learning_rates", "truncated_samples"):
        assert getattr(training, name) == getattr(expected, name), name
    assert len(set(expected.losses)) == expected.steps, "or the comparison says little"
    assert training.losses == pytest.approx(expected.losses, rel=1e-5)
    assert training.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    weights, others = (load_file(folder / "adapter_model.safetensors") for folder in (output, other))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-5)


def halvings_of(training: TrainingRecord) -> list[tuple[int, int, int]]:
    assert training.batch
    return [
        (one.after_step, one.per_device_train_batch_size, one.gradient_accumulation_steps)
        for one in training.batch.halvings
    ]


def test_a_training_goes_on_from_its_last_step(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = SmallDevice(monkeypatch, lambda rows, number: number > 2 and rows > 2)
    training = trained(made, tmp_path / "out")
    assert device.passes == [4, 4, 4, 2, 2, 2, 2]
    assert halvings_of(training) == [(2, 2, 2)] and training.resumed_after_steps == [2]
    assert training.config["per_device_train_batch_size"] == 4
    assert training.batch and training.batch.per_device_train_batch_size == 2 and not training.batch.fitted
    assert_ends_like(tmp_path / "out", undisturbed)
    (said,) = [line for line in caplog.messages if line.startswith("out of memory")]
    assert "after step 2, going on from checkpoint-2 with per_device_train_batch_size 2, gradient_accum" in said
    assert "Tried to allocate" in said


@pytest.mark.slow
def test_in_the_first_step_it_halves_twice(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SmallDevice(monkeypatch, lambda rows, _: rows > 1)
    training = trained(made, tmp_path / "out")
    assert device.passes == [4, 2, *[1] * 16]
    assert halvings_of(training) == [(0, 2, 2), (0, 1, 4)] and training.resumed_after_steps == []
    assert_ends_like(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_the_third_time_it_fails(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = SmallDevice(monkeypatch, lambda *_: True)
    with pytest.raises(OutOfMemoryWhileTrainingError) as failed:
        trained(made, tmp_path / "out", per_device_train_batch_size=16)
    assert device.passes == [16, 8, 4]
    named = named_failure(failed.value, "train", train_config(made, tmp_path / "out", {}))
    assert named and str(named).startswith("GPU: train ran out of memory (CUDA out of memory. Tried")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_retried_training_begins_with_the_batch_that_was_reached(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostNode(BaseException):
        pass

    def fails(rows: int, number: int) -> bool:
        if number == 6:
            raise LostNode
        return number > 2 and rows > 2

    kept: dict[str, Any] = {"checkpoint_dir": tmp_path / "checkpoints", "save_steps": 3}
    with monkeypatch.context() as patch, pytest.raises(LostNode):
        SmallDevice(patch, fails)
        trained(made, tmp_path / "out", **kept)
    device = SmallDevice(monkeypatch, lambda *_: False)
    training = trained(made, tmp_path / "out", **kept)
    assert device.passes == [2, 2], "step 3 is in the checkpoint"
    assert halvings_of(training) == [(2, 2, 2)] and training.resumed_after_steps == [2, 3]
    assert_ends_like(tmp_path / "out", undisturbed)


@pytest.mark.slow
def test_weights_that_the_optimizer_was_changing_are_not_kept(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def limited(optimizer: Any, *places: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 4:
            optimizer.param_groups[0]["params"][0].data.fill_(7.0)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(optimizer, *places, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", limited)
    training = trained(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints", save_steps=2)
    assert halvings_of(training) == [(3, 2, 2)] and training.resumed_after_steps == [2]
    assert_ends_like(tmp_path / "out", undisturbed)
    calls.clear()
    with pytest.raises(OutOfMemoryWhileTrainingError):
        trained(made, tmp_path / "other")


@pytest.mark.slow
def test_an_evaluation_without_memory_is_made_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation: dict[str, Any] = {"eval_steps": 2, "max_eval_samples": 7, "eval_pages": 3}
    expected = trained(made, tmp_path / "expected", **evaluation)
    device = SmallDevice(monkeypatch, lambda rows, number: number == 3)
    training = trained(made, tmp_path / "out", **evaluation)
    assert device.passes[:2] == [4, 4] and max(device.passes[3:]) == 2
    assert halvings_of(training) == [(2, 2, 2)] and training.eval_steps == [2, 4]
    assert training.eval_losses == pytest.approx(expected.eval_losses, rel=1e-5)
    assert training.eval_cers == expected.eval_cers
    assert_ends_like(tmp_path / "out", tmp_path / "expected")


@pytest.mark.slow
def test_of_several_processes_all_begin_again_from_their_checkpoint(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained(made, tmp_path / "expected", max_steps=3, num_gpus=2)
    kept: dict[str, Any] = {"num_gpus": 2, "checkpoint_dir": tmp_path / "checkpoints", "save_steps": 1, "max_steps": 3}
    (tmp_path / "sitecustomize.py").write_text(
        small_device(
            "PaddleOCRVLForConditionalGeneration", IN_THE_SECOND_PROCESS, passes=2, most_pages=2, failure=NO_ROOM
        )
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
    training = trained(made, tmp_path / "out", **kept)
    assert halvings_of(training) == [(2, 2, 2)] and training.resumed_after_steps == [2]
    assert training.processes == 2
    assert_ends_like(tmp_path / "out", tmp_path / "expected")
    assert "a process ran out of memory, all start again: after_step 2, per_device_train_batch_size 2" in caplog.text


@pytest.mark.slow
def test_fit_batch_takes_what_fits_and_keeps_the_steps(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "fit_batch": True}
    config = train_config(made, tmp_path / "out", {**SETTINGS, **settings, "dtype": "float32"})
    pages = largest_pages(config, ShardDataset(made / "dataset", "train"))

    def room(batch: int) -> int:
        alone = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 2}
        return needed_bytes(estimate_memory(config.model_copy(update=alone), pages, "standard"))

    found = [largest_fitting(config, pages, "standard", free)[0] for free in (room(1) - 1, room(1), room(3), 2**50)]
    assert found == [0, 1, 3, 4]

    caplog.set_level(logging.INFO, "components")
    monkeypatch.setattr(fitting_batch, "memory_taken", lambda: 1000)
    for_three = room(3) + 1000
    monkeypatch.setattr(fitting_batch, "memory_limit", lambda: for_three)
    training = trained(made, tmp_path / "out", **settings)
    assert training.batch and training.batch.fitted and not training.batch.halvings
    assert "fit_batch: per_device_train_batch_size 2, gradient_accumulation_steps 2: " in caplog.text
    assert_ends_like(tmp_path / "out", undisturbed)
    monkeypatch.setattr(fitting_batch, "memory_limit", lambda: 2**20)
    with pytest.raises(UserError, match=r"memory limit: .* GiB are predicted with one page per batch, and"):
        trained(made, tmp_path / "none", **settings)


@pytest.mark.slow
def test_mlflow_and_the_record_tell_what_fitted_and_what_was_left(
    made: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fitting_batch, "memory_limit", lambda: 2**50)
    SmallDevice(monkeypatch, lambda rows, number: number > 1 and rows > 2)
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    training = trained(made, tmp_path / "out", fit_batch=True, **accumulated)
    assert training.batch and training.batch.fitted and halvings_of(training) == [(1, 2, 2)]
    assert_ends_like(tmp_path / "out", undisturbed)
    client = MlflowClient(store)
    (tracked,) = client.search_runs([client.get_experiment_by_name("deepsynth").experiment_id])
    given = {name: tracked.data.params[name] for name in accumulated}
    assert given == {"per_device_train_batch_size": "1", "gradient_accumulation_steps": "4"}
    fitted = {name: tracked.data.params[f"fitted_{name}"] for name in accumulated}
    assert fitted == {"per_device_train_batch_size": "4", "gradient_accumulation_steps": "1"}
    assert tracked.data.metrics["per_device_train_batch_size"] == 2
    said = "after step 1; then per_device_train_batch_size 2, gradient_accumulation_steps 2"
    assert tracked.data.tags["out_of_memory"] == said
