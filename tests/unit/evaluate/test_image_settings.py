"""DeepSeek's inference parameters on a tiny DeepSeek-OCR-2: what the model sees, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.dataset_fixture import Page, write_dataset

SMALL, LARGE = 192, 256  # 12 and 16 cells of 4 patches of 4 pixels; 768 and 1,024 in the full-size model
SMALL_TOKENS, LARGE_TOKENS = 144, 256


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek") / "model"
    save_tiny_deepseek_ocr2(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()


@pytest.mark.parametrize(
    ("settings", "view", "tile"),
    [
        ({}, LARGE, SMALL),  # the model's own
        ({"base_size": SMALL}, SMALL, SMALL),
        ({"base_size": LARGE, "image_size": SMALL, "crop_mode": True}, LARGE, SMALL),
        ({"image_size": LARGE}, LARGE, LARGE),
        ({"crop_mode": False}, SMALL, None),
        ({"base_size": LARGE, "crop_mode": False}, LARGE, None),
        ({"base_size": LARGE, "image_size": SMALL, "crop_mode": False}, SMALL, None),
        ({"base_size": LARGE, "image_size": LARGE, "crop_mode": False}, LARGE, None),
    ],
)
def test_pages_are_seen_at_the_sizes_that_were_asked_for(
    base: Path, model: Any, settings: dict[str, Any], view: int, tile: int | None
) -> None:
    processor = load_processor(str(base))
    family = with_image_settings(ImageSettings(**settings), processor, family_of("deepseek_ocr2"))
    page = Image.new("RGB", (520, 300), "white")  # larger than either tile
    inputs = generation_inputs(processor, family, [page], [None])
    assert inputs["pixel_values"].shape[-2:] == (view, view)
    tiles = int(inputs["num_local_patches"][0])
    assert (tiles > 0) == (tile is not None)
    if tile is not None:
        assert inputs["pixel_values_local"].shape == (tiles, 3, tile, tile)
    tokens = {SMALL: SMALL_TOKENS, LARGE: LARGE_TOKENS, None: 0}
    image_tokens = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert image_tokens == tokens[view] + tiles * tokens[tile] + 1
    with torch.inference_mode():  # the model finds as many features as there are tokens
        assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 1


@pytest.mark.parametrize(
    ("base_model", "settings", "message"),
    [
        (None, {"base_size": 200}, "base_size: the model sees no view of 200 pixels; give 192 or 256"),
        (None, {"image_size": 640, "crop_mode": True}, "image_size: the model sees no view of 640 pixels"),
        (
            "tiny-base",
            {"crop_mode": False},
            "crop_mode: the DeepSeek-OCR models are read so; a model of the family 'paddleocr_vl'",
        ),
    ],
)
def test_what_the_model_cannot_see_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_model: str | None, settings: Any, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    write_dataset(tmp_path / "dataset", [Page("a page", "one")])
    common = {"dataset_dir": tmp_path / "dataset", "output_dir": tmp_path / "out", "classic_ocr": False}
    with pytest.raises(UserError, match=message):
        run(EvaluateConfig.model_validate({**common, "base_model": base_model or str(base), **settings}))
    assert not (tmp_path / "out").exists()


def test_a_report_of_before_leaves_them_to_the_model() -> None:
    assert ImageSettings.of({"max_new_tokens": 8}).given() == []
