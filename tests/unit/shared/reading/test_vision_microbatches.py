"""Encoding pictures a few at a time gives the same features as encoding all at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import load_model, load_processor
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.vision_microbatches import encode_in_microbatches
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

SIDE = 256  # pixels of a page as the tiny encoder sees it
SIZES = [(300, 200), (200, 200), (100, 100)]  # width and height


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek") / "model"
    save_tiny_deepseek_ocr2(folder)
    return folder


def loaded(base: Path | str) -> Any:
    return load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()


def features(model: Any, base: Path) -> list[torch.Tensor]:
    """Return the features of the noisy pages, one tensor of shape (tokens, hidden size) per page."""
    generator = torch.Generator().manual_seed(0)
    pages = [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())
        for width, height in SIZES
    ]
    inputs = generation_inputs(load_processor(str(base)), FAMILIES["deepseek_ocr2"], pages, [None] * len(pages))
    assert sum(inputs["num_local_patches"]) > 0, "no page is cut into tiles"
    pictures = {name: inputs[name] for name in ("pixel_values", "pixel_values_local", "num_local_patches")}
    assert inputs["pixel_values"].shape == (len(SIZES), 3, SIDE, SIDE)
    found: list[torch.Tensor] = model.get_image_features(**pictures).pooler_output
    return found


def rows_seen(model: Any) -> list[int]:
    seen: list[int] = []
    model.model.vision_tower.sam_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_the_features_are_those_of_all_at_once(base: Path) -> None:
    whole, parted = loaded(base), loaded(base)
    assert encode_in_microbatches(parted, pixels_at_once=2 * SIDE * SIDE)
    seen = rows_seen(parted)
    with torch.no_grad():
        expected, found = features(whole, base), features(parted, base)
    assert seen[:2] == [2, 1], "three pages, two at a time"
    assert len(seen) > 2, "tiles as well"
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_with_gradients_it_takes_all_at_once(base: Path) -> None:
    model = loaded(base)
    assert encode_in_microbatches(model, pixels_at_once=1)
    seen = rows_seen(model)
    features(model, base)
    assert seen[0] == len(SIZES)


def test_it_is_done_once_and_only_where_a_row_is_a_picture(base: Path) -> None:
    model = loaded(base)
    assert encode_in_microbatches(model, pixels_at_once=SIDE * SIDE) and encode_in_microbatches(model, pixels_at_once=1)
    seen = rows_seen(model)
    with torch.no_grad():
        features(model, base)
    assert seen[:3] == [1, 1, 1]
    assert not encode_in_microbatches(loaded("tiny-base")), "its rows are patches"
