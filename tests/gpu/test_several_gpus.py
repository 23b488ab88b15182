"""Training on two GPUs equals training on one with twice the batch, in both backends.

python -m pytest tests/gpu/test_several_gpus.py        (needs two CUDA devices, bitsandbytes and unsloth)
"""

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.gpu_training import base_and_dataset, log_of, settings_of, started, trained, trained_side_by_side

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]

ON_TWO: dict[str, Any] = {"num_gpus": 2, "per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("gpu"))


@pytest.mark.parametrize("backend", ["standard", "unsloth"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"load_in_4bit": True}, {"load_in_8bit": True}, {"load_in_4bit": True, "gradient_checkpointing": True}],
    ids=["16-bit", "4-bit", "8-bit", "4-bit with checkpointing"],
)
def test_two_gpus_train_like_one(made: Path, tmp_path: Path, backend: str, settings: dict[str, Any]) -> None:
    if importlib.util.find_spec(backend) is None and backend == "unsloth":
        pytest.skip("needs unsloth")
    pytest.importorskip("bitsandbytes")
    evaluated = {**settings, "backend": backend, "eval_steps": 2, "max_eval_samples": 4, "eval_pages": 2}
    one, two = trained_side_by_side(made, tmp_path, evaluated, evaluated | ON_TWO)
    assert two["processes"] == 2
    assert two["samples_per_step"] == one["samples_per_step"] and two["tokens_per_step"] == one["tokens_per_step"]
    assert two["losses"] == pytest.approx(one["losses"], rel=5e-3)
    assert two["eval_losses"] == pytest.approx(one["eval_losses"], rel=5e-3)
    first, second = (peak["allocated"] for peak in two["peak_memory_bytes_of_processes"])
    assert second == pytest.approx(first, rel=0.2), "each process has its own device"


def test_all_weights_train_on_two_gpus(made: Path, tmp_path: Path) -> None:
    settings = {"backend": "standard", "peft": "none", "learning_rate": 1e-4}
    one, two = trained_side_by_side(made, tmp_path, settings, settings | ON_TWO)
    assert two["losses"] == pytest.approx(one["losses"], rel=5e-3)


def test_a_stopped_training_of_two_gpus_goes_on(made: Path, tmp_path: Path) -> None:
    settings = {"backend": "standard", "max_steps": 60, **ON_TWO}
    whole = trained(made, tmp_path / "whole", **settings)
    stopped = settings_of(
        made, tmp_path / "out", **settings, checkpoint_dir=str(tmp_path / "checkpoints"), save_steps=5
    )
    process = started("train", stopped)
    while process.poll() is None and not list((tmp_path / "checkpoints").glob("*/checkpoint-5/checkpoint.json")):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=120) == 143, log_of("train", stopped).read_text(errors="replace")[-3000:]
    resumed = trained(made, tmp_path / "out", **{**settings, "checkpoint_dir": str(tmp_path / "checkpoints")})
    assert 5 <= resumed["resumed_after_steps"][0] < 60
    assert resumed["losses"] == pytest.approx(whole["losses"], rel=1e-3)


def test_what_one_gpu_finds_wrong_is_said_once(made: Path, tmp_path: Path) -> None:
    settings = settings_of(made, tmp_path / "out", backend="standard", num_gpus=2, max_length=50)
    assert started("train", settings).wait() == 2
    said = log_of("train", settings).read_text(errors="replace")
    assert said.count("error: max_length") == 1 and "Traceback" not in said
