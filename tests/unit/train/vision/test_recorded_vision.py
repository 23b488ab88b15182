"""On a CPU or with gradients, a vision encoder is called directly; tests/gpu tests the recordings."""

from pathlib import Path
from typing import Any

import numpy as np
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
