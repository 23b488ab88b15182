"""Several processes of one training, on gloo: the same losses, the same stop and the same messages as one process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from components.shared.errors import UserError
from components.train.estimate.memory_estimate import Pages, estimate_memory
from components.train.loop.checkpoints import damage
from components.train.loop.measurements import highest_peak
from components.train.processes.torchrun import CPU_PROCESSES_VARIABLE
from components.train.step import run
from tests.fixtures.training_fixture import SHORT_TRAINING, base_and_boats, several_processes_on_a_cpu, train_config

SETTINGS = SHORT_TRAINING
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
EVALUATION = {"eval_steps": 2, "max_eval_samples": 4, "eval_pages": 3}


@pytest.fixture(scope="module", autouse=True)
def _small_processes() -> Iterator[None]:
    with several_processes_on_a_cpu():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 18 training pages of 1 to 6 lines."""
    return base_and_boats(tmp_path_factory.mktemp("made"))


def step_command(made: Path, output: Path, settings: dict[str, Any]) -> list[str]:
    config = train_config(made, output, {**SETTINGS, **settings})
    file = output.with_suffix(".json")
    file.write_text(config.model_dump_json(exclude_unset=True))
    return ["-m", "components.train", "--config", str(file)]


def ended(command: list[str]) -> tuple[int, str]:
    """Run ``command`` to the end and return its exit code and standard error."""
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return answer.returncode, answer.stderr


def training_of(folder: Path) -> dict[str, Any]:
    training: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return training


def assert_same_training(training: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that both had the same pages in each step, and the same losses up to the order of summation."""
    for name in ("tokens_per_step", "samples_per_step", "loss_steps", "eval_steps", "truncated_samples"):
        assert training[name] == expected[name]
    assert training["flops_per_step"] == pytest.approx(expected["flops_per_step"])
    assert training["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert training["gradient_norms"] == pytest.approx(expected["gradient_norms"], rel=1e-4)
    assert training["learning_rates"] == expected["learning_rates"]
    assert training["eval_losses"] == pytest.approx(expected["eval_losses"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(made: Path, tmp_path: Path) -> None:
    settings = {**EVALUATION, "max_length": 60}
    one = run(train_config(made, tmp_path / "one", {**SETTINGS, **settings})).training.model_dump()
    halves = step_command(made, tmp_path / "two", {**settings, "per_device_train_batch_size": 2})
    code, said = ended([*TORCHRUN, *halves])
    assert code == 0, said
    two = training_of(tmp_path / "two")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(set(one["losses"])) == 4 and one["truncated_samples"] > 0, "or the comparison says little"
    assert_same_training(two, one)
    assert two["eval_cers"] == pytest.approx(one["eval_cers"]) and two["eval_wers"] == pytest.approx(one["eval_wers"])
    assert two["peak_memory_bytes"] == highest_peak(two["peak_memory_bytes_of_processes"])
    assert len(two["peak_memory_bytes_of_processes"]) == 2
    assert said.count("INFO components.train.step") == 2, "one process says which backend, and when it is ready"
    assert not list(tmp_path.glob(".*partial*"))


def test_fewer_devices_than_asked_for(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CPU_PROCESSES_VARIABLE)
    with pytest.raises(UserError, match=r"num_gpus: 64 GPUs are asked for, and this machine has \d+ CUDA devices"):
        run(train_config(made, tmp_path / "out", {**SETTINGS, "num_gpus": 64}))


@pytest.mark.slow
def test_gradients_are_copied_on_their_way_between_gpus(made: Path, tmp_path: Path) -> None:
    config = train_config(made, tmp_path / "out", SETTINGS)
    alone = estimate_memory(config, Pages(224, 224, 128), "standard")
    both = estimate_memory(config.model_copy(update={"num_gpus": 2}), Pages(224, 224, 128), "standard")
    assert both.peak_bytes - alone.peak_bytes == both.parts["gradient buckets"] == alone.parts["adapter"] > 0


@pytest.mark.slow
def test_accumulated_batches_and_epochs(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": None, "num_train_epochs": 2, "gradient_accumulation_steps": 2}
    settings |= {"dataloader_num_workers": 1, "group_by_length": False}
    one = run(
        train_config(made, tmp_path / "one", {**SETTINGS, **settings, "per_device_train_batch_size": 6})
    ).training.model_dump()
    settings |= {"per_device_train_batch_size": 3, "num_gpus": 2}
    two = run(train_config(made, tmp_path / "two", {**SETTINGS, **settings})).training.model_dump()
    assert_same_training(two, one)
    assert two["samples_per_step"] == [12, 6, 12, 6]


@pytest.mark.slow
def test_all_weights_train_in_two_processes(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"peft": "none", "gradient_checkpointing": True, "learning_rate": 1e-3}
    one = run(train_config(made, tmp_path / "one", {**SETTINGS, **settings})).training.model_dump()
    settings |= {"per_device_train_batch_size": 2, "num_gpus": 2}
    assert_same_training(run(train_config(made, tmp_path / "two", {**SETTINGS, **settings})).training.model_dump(), one)


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True], ids=["num_gpus", "torchrun"])
def test_what_one_process_finds_wrong_is_said_once(made: Path, tmp_path: Path, by_hand: bool) -> None:
    settings: dict[str, Any] = {"max_length": 25} if by_hand else {"max_length": 25, "num_gpus": 2}
    command = step_command(made, tmp_path / "out", settings)
    code, said = ended([*TORCHRUN, *command] if by_hand else [sys.executable, *command])
    assert said.count("error: max_length: 25 tokens are used up by a page's picture") == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial*"))
    if not by_hand:  # torchrun itself exits with 1 and prints its own traceback
        assert code == 2 and "Traceback" not in said and "torch" not in said


ALL_FAIL_AND_END_LATE = """
import atexit, sys, time
from components.shared.errors import UserError
from components.train.processes.torchrun import one_of_several

atexit.register(time.sleep, 5)
try:
    with one_of_several(2):
        raise UserError("is wrong", where="here", mend="mend it")
except UserError as error:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
"""


@pytest.mark.slow
def test_the_first_failure_alone_speaks_however_long_its_process_takes_to_end(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text(ALL_FAIL_AND_END_LATE)
    code, said = ended([*TORCHRUN, str(tmp_path / "fail.py")])
    assert code == 1 and said.count("error: here: is wrong") == 1, said


@pytest.mark.slow
def test_the_callers_error_is_the_workers(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("in the way")
    with pytest.raises(UserError, match="the output folder exists and is not empty"):
        run(train_config(made, tmp_path / "out", {**SETTINGS, "num_gpus": 2}))


def stopped_by(
    send: Callable[[subprocess.Popen[str]], None], command: list[str], progress: Path, steps: int
) -> tuple[int, str]:
    """Start a training, call ``send`` after ``steps`` steps, and return the exit code and standard error."""
    environment = os.environ | {"DEEPSYNTH_PROGRESS_FILE": str(progress), "TMPDIR": str(progress.parent)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            lines = progress.read_text().splitlines() if progress.exists() else []
            if any(json.loads(line)["done"] >= steps for line in lines if line.endswith("}")):
                break
            time.sleep(0.01)
        send(process)
        _, said = process.communicate(timeout=300)
    return process.returncode, said


STOPPED: dict[str, Any] = {"num_gpus": 2, "max_steps": 12, "lora_dropout": 0.1, "per_device_train_batch_size": 3}


@pytest.fixture(scope="module")
def whole(made: Path) -> dict[str, Any]:
    return run(train_config(made, made / "whole", {**SETTINGS, **STOPPED})).training.model_dump()


@pytest.mark.slow
@pytest.mark.parametrize(
    "send",
    [
        lambda process: process.terminate(),
        lambda process: os.killpg(process.pid, signal.SIGTERM),
    ],
    ids=["to the parent", "to the group"],
)
def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on(
    send: Callable[[subprocess.Popen[str]], None], made: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    settings = STOPPED | {"checkpoint_dir": tmp_path / "checkpoints"}
    command = [sys.executable, *step_command(made, tmp_path / "out", settings)]
    code, said = stopped_by(send, command, tmp_path / "progress", steps=1)
    assert code == 143
    assert said.count("terminated: ") == 1 and "Traceback" not in said
    (checkpoint,) = (tmp_path / "checkpoints").glob("training-*/checkpoint-*")
    assert damage(checkpoint) is None
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial*"))
    resumed = run(train_config(made, tmp_path / "out", {**SETTINGS, **settings})).training.model_dump()
    assert resumed["resumed_after_steps"] == [int(checkpoint.name.split("-")[1])]
    for name in ("losses", "gradient_norms", "tokens_per_step", "samples_per_step", "flops_per_step"):
        assert resumed[name] == whole[name]


# Both checkpoints stay if the adapter is not written.
KILLED_WHILE_IT_SAVES = """
import os, runpy
from components.train import step

step._save = lambda *_: os._exit(9)
runpy.run_module("components.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("group_by_length", [True, False])
def test_a_training_resumed_in_its_second_epoch_takes_that_epochs_pages(
    made: Path, tmp_path: Path, group_by_length: bool
) -> None:
    # 18 pages, six per step: the fourth step is the first of the second epoch.
    settings: dict[str, Any] = {"max_steps": 6, "per_device_train_batch_size": 3, "save_steps": 4}
    settings |= {"checkpoint_dir": tmp_path / "checkpoints", "group_by_length": group_by_length}
    (tmp_path / "train.py").write_text(KILLED_WHILE_IT_SAVES)
    _, _, *options = step_command(made, tmp_path / "killed", settings)
    ended([*TORCHRUN, str(tmp_path / "train.py"), *options])
    fourth, last = sorted((tmp_path / "checkpoints").glob("*/checkpoint-*"))
    whole = json.loads((last / "measurements.json").read_text())
    settings |= {"num_gpus": 2, "resume_from_checkpoint": str(fourth)}
    resumed = run(train_config(made, tmp_path / "out", {**SETTINGS, **settings})).training.model_dump()
    assert resumed["resumed_after_steps"] == [4] and resumed["steps"] == 6
    assert whole["tokens_per_step"][3:] != whole["tokens_per_step"][:3], "each epoch has an order of its own"
    for name in ("tokens_per_step", "losses", "gradient_norms"):
        assert resumed[name] == whole[name]


@pytest.mark.slow
def test_all_stop_early_at_the_same_step(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**EVALUATION, "eval_steps": 1, "early_stopping_patience": 2, "max_steps": 20}
    # So low that no evaluation is better than the first. A high learning rate amplifies rounding differences between
    # one and two processes: at 0.3, one of the two trainings had a better third step.
    settings |= {"learning_rate": 1e-30, "lr_scheduler_type": "constant"}
    one = run(train_config(made, tmp_path / "one", {**SETTINGS, **settings})).training.model_dump()
    settings |= {"per_device_train_batch_size": 2, "num_gpus": 2}
    two = run(train_config(made, tmp_path / "two", {**SETTINGS, **settings})).training.model_dump()
    assert two["steps"] == one["steps"] == 3 and two["best_step"] == one["best_step"] == 1


# In the first process, a part of the second checkpoint cannot be written: files are limited to 1 KiB.
FIRST_CANNOT_WRITE = """
import os, resource, runpy, sys
from datetime import timedelta
from components.train.processes import distributed
from components.train.loop import page_trainer

distributed._LONGEST_WAIT = timedelta(seconds=200)
part = sys.argv.pop(1)
write, calls = getattr(page_trainer, part), []
evaluate, losses = page_trainer.PageTrainer.evaluation_loop, [1.0, 0.5, 0.8, 0.7]

def without_space(*places):
    calls.append(places)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if os.environ["RANK"] == "0" and len(calls) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        write(*places)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

def scripted(trainer, *places, **options):
    output = evaluate(trainer, *places, **options)
    output.metrics["eval_loss"] = losses[trainer.state.global_step - 1]
    return output

if os.environ["RANK"] == "1":  # as on another machine, where the first one's checkpoints are not
    page_trainer.load_file = None
setattr(page_trainer, part, without_space)
page_trainer.PageTrainer.evaluation_loop = scripted
runpy.run_module("components.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["save_file", "seal"])
def test_no_process_waits_for_a_checkpoint_that_the_first_cannot_write(made: Path, tmp_path: Path, part: str) -> None:
    # With a patience of 1, a process that took the lost second step for the best would stop alone after the third.
    settings: dict[str, Any] = {**EVALUATION, "eval_steps": 1, "eval_pages": 0, "early_stopping_patience": 1}
    settings |= {"metric_for_best_model": "eval_loss", "per_device_train_batch_size": 2, "max_steps": 4}
    settings |= {"checkpoint_dir": tmp_path / "checkpoints"}
    (tmp_path / "train.py").write_text(FIRST_CANNOT_WRITE)
    _, _, *options = step_command(made, tmp_path / "out", settings)
    code, said = ended([*TORCHRUN, str(tmp_path / "train.py"), part, *options])
    assert code == 0, said
    assert said.count("no checkpoint at step 2, the training goes on") == 1
    training = training_of(tmp_path / "out")
    assert (training["failed_checkpoints"], training["steps"], training["best_step"]) == (1, 4, 4)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return sorted((each for each in children if "components.train.worker" in each.cmdline()), key=lambda each: each.pid)


@pytest.mark.slow
def test_an_interrupt_is_said_once(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, *step_command(made, tmp_path / "out", {"num_gpus": 2, "max_steps": 500})]
    interrupt = lambda process: process.send_signal(signal.SIGINT)  # noqa: E731
    code, said = stopped_by(interrupt, command, tmp_path / "progress", steps=1)
    assert code == 130 and said.count("interrupted") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial*"))


@pytest.mark.slow
def test_one_run_is_tracked(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    training = run(train_config(made, tmp_path / "out", {**SETTINGS, "num_gpus": 2})).training.model_dump()
    client = MlflowClient(store)
    (tracked,) = client.search_runs([client.get_experiment_by_name("deepsynth").experiment_id])
    assert tracked.info.status == "FINISHED" and tracked.data.params["num_gpus"] == "2"
    (*_, last) = client.get_metric_history(tracked.info.run_id, "samples_per_second")
    seconds = training["step_seconds"][-1] + training["data_wait_seconds"][-1]
    assert last.value == pytest.approx(8 / seconds), "the pages of both processes"


@pytest.mark.slow
def test_a_killed_worker_ends_the_training(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, *step_command(made, tmp_path / "out", {"num_gpus": 2, "max_steps": 500})]
    code, said = stopped_by(lambda process: workers_of(process)[1].kill(), command, tmp_path / "progress", steps=1)
    assert code == 1 and "process 1 of the training was killed by SIGKILL" in said
    assert said.count("Traceback") == 1, "the parent's; the other process lost its partner and is silent"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_workers_of_a_killed_parent_end_with_a_checkpoint(made: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_gpus": 2, "max_steps": 500, "checkpoint_dir": tmp_path / "checkpoints"}
    left: list[psutil.Process] = []

    def kill(process: subprocess.Popen[str]) -> None:
        left.extend(workers_of(process))
        process.kill()

    command = [sys.executable, *step_command(made, tmp_path / "out", settings)]
    code, said = stopped_by(kill, command, tmp_path / "progress", steps=1)
    assert code == -signal.SIGKILL and len(left) == 2
    assert psutil.wait_procs(left, timeout=300)[1] == []
    (checkpoint,) = (tmp_path / "checkpoints").glob("training-*/checkpoint-*")
    assert damage(checkpoint) is None and "Traceback" not in said
