"""A recorded vision encoder returns the same features as one that is not recorded, picture after picture.

python -m pytest tests/gpu/test_recorded_vision_on_gpu.py        (needs a CUDA device)
"""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.models.model_loading import load_model
from components.shared.reading.sam_attention import fold_position_biases
from components.shared.reading.segment_attention import attend_by_segment_length
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.vision.recorded_vision import recorded
from tests.fixtures.packed_encoders import GRIDS, PACKED_ENCODERS, features, packed_encoder, pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = [(2, 256), (1, 256), (3, 192)]  # (number of pictures, side in pixels)


@pytest.fixture
def encoder(tmp_path: Path) -> Any:
    save_tiny_deepseek_ocr2(tmp_path / "base")
    model: Any = load_model(str(tmp_path / "base"), dtype=torch.bfloat16, device=torch.device("cuda", 0))
    fold_position_biases(model)
    return model.model.vision_tower.requires_grad_(False)


def pictures(seed: int, count: int, side: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator, device="cuda", dtype=torch.bfloat16)


@pytest.mark.parametrize("autocast", [True, False])
def test_every_picture_has_its_own_features(encoder: Any, autocast: bool) -> None:
    replayed = recorded(encoder.forward)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        for turn in range(3):
            found = [replayed(pictures(turn, *shape)).last_hidden_state for shape in SHAPES]
            for features, shape in zip(found, SHAPES, strict=True):  # after all calls: the results do not share memory
                expected = encoder.forward(pictures(turn, *shape)).last_hidden_state
                assert torch.equal(features, expected) and expected.abs().sum() > 0


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_packed_pictures_have_their_own_features(name: str, by_length: bool, caplog: pytest.LogCaptureFixture) -> None:
    encoder = packed_encoder(name).to("cuda", torch.bfloat16)
    if by_length:
        attend_by_segment_length(encoder)
    replayed = recorded(encoder.forward)
    grids = [GRIDS.to("cuda"), GRIDS.flip(0).to("cuda")]
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for seed in range(3):
            pictures = pixels(name, seed).to("cuda", torch.bfloat16)
            found = [features(replayed(pictures, grid_thw=grid)) for grid in grids]
            for ours, grid in zip(found, grids, strict=True):
                expected = features(encoder.forward(pictures, grid_thw=grid))
                assert len(ours) == len(expected) and all(map(torch.equal, ours, expected))
    assert not [record for record in caplog.records if "cannot be recorded" in record.message]


def test_a_recording_made_in_inference_mode_serves_a_training(encoder: Any) -> None:
    replayed = recorded(encoder.forward)
    with torch.inference_mode():
        inferred = replayed(pictures(0, *SHAPES[0])).last_hidden_state.float()
    with torch.no_grad():
        assert torch.equal(replayed(pictures(0, *SHAPES[0])).last_hidden_state.float(), inferred)


def test_another_thread_may_pin_memory_meanwhile(encoder: Any) -> None:
    done = threading.Event()

    def pin() -> None:
        sizes = iter(range(1, 10**9))
        while not done.is_set():
            torch.empty(next(sizes) * 4096, pin_memory=True)

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        with torch.no_grad():
            features = recorded(encoder.forward)(pictures(0, *SHAPES[0])).last_hidden_state
    finally:
        done.set()
        thread.join()
    with torch.no_grad():
        assert torch.equal(features, encoder.forward(pictures(0, *SHAPES[0])).last_hidden_state)


def test_what_cannot_be_recorded_is_called_and_said(encoder: Any, caplog: pytest.LogCaptureFixture) -> None:
    def asks_the_device(pixel_values: torch.Tensor) -> Any:
        if pixel_values.sum().item() == 0:
            raise AssertionError("not these pictures")
        return encoder.forward(pixel_values)

    replayed = recorded(asks_the_device)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        for turn in range(2):
            features = replayed(pictures(turn, *SHAPES[0])).last_hidden_state
            assert torch.equal(features, encoder.forward(pictures(turn, *SHAPES[0])).last_hidden_state)
    assert sum("cannot be recorded" in record.message for record in caplog.records) == 1
