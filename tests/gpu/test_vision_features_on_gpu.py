"""Trainings with kept vision features have the same losses as trainings without them, in both backends.

python -m pytest tests/gpu/test_vision_features_on_gpu.py        (bitsandbytes, unsloth; two CUDA devices for the last)
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.gpu_training import base_and_dataset, trained_side_by_side

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("gpu"))


@pytest.mark.parametrize("backend", ["standard", "unsloth"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"load_in_4bit": True, "gradient_checkpointing": True}, {"load_in_8bit": True}],
    ids=["16-bit", "4-bit with checkpointing", "8-bit"],
)
def test_losses_are_the_same(made: Path, tmp_path: Path, backend: str, settings: dict[str, Any]) -> None:
    if backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs unsloth")
    pytest.importorskip("bitsandbytes")
    changes = {"backend": backend, "max_steps": 12, "dataloader_num_workers": 2, **settings}
    changes |= {"eval_steps": 6, "max_eval_samples": 4, "eval_pages": 2}
    kept = changes | {"vision_features_dir": str(tmp_path / "features")}
    plain, first = trained_side_by_side(made, tmp_path, changes, kept)
    computed = first["vision_features"]["computed"]
    half = first["vision_features"]["bytes"] / 2 / 2**30
    bounded = changes | {"vision_features_dir": str(tmp_path / "small"), "vision_features_gib": half}
    again, crowded = trained_side_by_side(made, tmp_path / "later", kept, bounded)
    assert computed and again["vision_features"]["reused"] == computed and not again["vision_features"]["computed"]
    assert 0 < crowded["vision_features"]["left_out"] < computed
    for training in (first, again, crowded):
        assert training["losses"] == pytest.approx(plain["losses"], rel=5e-3)
        assert training["eval_losses"] == pytest.approx(plain["eval_losses"], rel=5e-3)
        assert training["tokens_per_step"] == plain["tokens_per_step"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_share_the_pass(made: Path, tmp_path: Path) -> None:
    changes = {"backend": "standard", "num_gpus": 2, "per_device_train_batch_size": 2, "max_steps": 8}
    kept = changes | {"vision_features_dir": str(tmp_path / "features")}
    plain, first = trained_side_by_side(made, tmp_path, changes, kept)
    assert first["vision_features"]["computed"] and not first["vision_features"]["computed_in_steps"]
    assert first["losses"] == pytest.approx(plain["losses"], rel=5e-3)
