"""On a CPU or with gradients, a vision encoder is called directly; tests/gpu tests the recordings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from components.train.vision.fixed_work import FixedWork
from components.train.vision.frozen_vision import run_frozen_parts_without_gradients
from components.train.vision.recorded_vision import other_pixels, recorded
from tests.fixtures.tiny_families import gemma3, kosmos2_5


def test_on_a_cpu_and_with_gradients_it_is_called_as_it_is() -> None:
    calls: list[tuple[Any, ...]] = []

    def encode(pixel_values: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        """Encode."""
        calls.append((pixel_values, *inputs, options))
        return pixel_values * 2

    replayed, pictures, grid = recorded(encode), torch.ones(2, 3, 4, 4), torch.ones(1)
    assert replayed.__doc__ == "Encode."
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(replayed(pictures, grid, return_dict=True), pictures * 2)
    assert calls == [(pictures, grid, {"return_dict": True})] * 2


class OnCuda(torch.Tensor):
    """A tensor that counts as a GPU's, for what is decided before anything is recorded."""

    is_cuda = True


@torch.no_grad()
def test_why_an_encoder_is_not_recorded_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    replayed, pictures = recorded(lambda pixels, **_: pixels * 2), torch.ones(2, 3).as_subclass(OnCuda)
    with caplog.at_level("INFO"):
        for mask in (torch.ones(2, 32, 32, dtype=torch.bool), torch.zeros(2, 32, 32, dtype=torch.bool)):
            assert torch.equal(replayed(pictures, patch_attention_mask=mask), pictures * 2)
        replayed(pictures, scale=torch.ones(1))
    told = [record.message.partition(": ")[2] for record in caplog.records]
    assert told == ["patch_attention_mask holds more than 256 numbers", "scale holds other numbers than whole ones"]


def test_the_pixels_that_check_a_recording_are_valid_for_patches_with_positions(tmp_path: Path) -> None:
    kosmos2_5(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    page = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    patches = AutoProcessor.from_pretrained(tmp_path)(images=page, text="<ocr>", return_tensors="pt")
    with torch.no_grad():
        features, others = (
            model.vision_model(each).last_hidden_state
            for each in (patches["flattened_patches"], other_pixels(patches["flattened_patches"]))
        )
    assert others.isfinite().all()
    assert float((others - features).abs().max()) > 0.1 * float(features.abs().max())


def test_a_frozen_encoder_does_not_use_flex_attention(tmp_path: Path) -> None:
    gemma3(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model.model.vision_tower(pixels).last_hidden_state
        model.set_attn_implementation("flex_attention")
        run_frozen_parts_without_gradients(model.requires_grad_(False))
        found = FixedWork(model.model.vision_tower, pixels).run(pixels).last_hidden_state
    assert model.config.text_config._attn_implementation == "flex_attention"
    torch.testing.assert_close(found, expected)
