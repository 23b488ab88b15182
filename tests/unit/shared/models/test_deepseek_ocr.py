"""The first DeepSeek-OCR against what the published code computed (tests/fixtures/published_deepseek_ocr/record.py)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from components.shared.errors import UserError
from components.shared.models.deepseek_ocr.registration import register_deepseek_ocr
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.sam_attention import fold_position_biases
from components.shared.reading.vision_microbatches import encode_in_microbatches
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr
from tests.fixtures.published_deepseek_ocr.recorded_case import (
    CLIP,
    IMAGE_TOKEN_ID,
    LANGUAGE,
    MODES,
    NEW_TOKENS,
    PROMPT,
    RECORDING,
    SAM,
    case_tokenizer,
    page_of,
    recorded_positions,
    set_weights,
)
from tests.fixtures.training_fixture import one_thread_and_no_tracking

# What deepseek-ai/DeepSeek-OCR has, read from its safetensors' headers.
PUBLISHED_TENSORS, PUBLISHED_PARAMETERS = 2710, 3_336_106_240
SLOW = {"large", "gundam_small_page"}  # two seconds each, and the others cover their layouts


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def recording() -> dict[str, np.ndarray]:
    with np.load(RECORDING) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def checkpoint(recording: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as it is published: its files, the tensors' names, no image processor."""
    folder = tmp_path_factory.mktemp("published")
    weights = {name: torch.empty(shape) for name, shape in json.loads(str(recording["shapes"])).items()}
    set_weights(weights.items())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **{"architectures": ["DeepseekOCRForCausalLM"], "model_type": "deepseek_vl_v2", "torch_dtype": "bfloat16"},
        "auto_map": {"AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig", "AutoModel": "modeling_deepseekocr.X"},
        **{"language_config": LANGUAGE, **LANGUAGE, "image_token_id": IMAGE_TOKEN_ID},
        "projector_config": {"input_dim": 2048, "n_embed": 1280, "projector_type": "linear"},
        "vision_config": {
            "image_size": 1024,
            "width": {"sam_vit_b": {**SAM, "downsample_channels": [512, 1024]}, "clip-l-14-224": CLIP},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"processor_class": "DeepseekVLV2Processor", "patch_size": 16, "downsample_ratio": 4}
    more = {"candidate_resolutions": [[1024, 1024]], "image_mean": [0.5] * 3, "sft_format": "deepseek"}
    (folder / "processor_config.json").write_text(json.dumps({**processor, **more, "image_token": "<image>"}))
    names = {"bos_token": "<begin>", "eos_token": "<end>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=case_tokenizer(), **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return load_model(str(checkpoint), dtype=torch.float32, device=torch.device("cpu")).eval()


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=[pytest.mark.slow] * (mode in SLOW)) for mode in MODES])
def test_a_page_gives_what_the_published_code_computes(
    mode: str, recording: dict[str, np.ndarray], checkpoint: Path, model: Any
) -> None:
    expected = {name.partition("/")[2]: value for name, value in recording.items() if name.startswith(mode + "/")}
    processor: Any = load_processor(str(checkpoint))
    sizes, crops = MODES[mode], MODES[mode]["crop_mode"]
    view = sizes["base_size"]
    inputs = processor(
        images=[page_of(mode)],
        text=[PROMPT.strip()],
        size={"height": view, "width": view},
        tile_size=sizes["image_size"],
        crop_to_patches=crops,
        return_tensors="pt",
    )
    assert inputs["input_ids"][0].tolist() == expected["input_ids"].tolist()
    assert inputs["images_spatial_crop"].tolist() == expected["spatial_crop"].tolist()
    for name in {"pixel_values", "pixel_values_local"} & inputs.keys():
        inputs[name] = inputs[name].to(torch.bfloat16).float()  # as the published code rounds pictures
    sums = inputs["pixel_values"].double().sum((0, 2, 3)).numpy()
    assert sums == pytest.approx(expected["view_sum"], rel=1e-12, abs=1e-6)
    tiles = inputs.get("pixel_values_local")
    assert (0 if tiles is None else len(tiles)) == expected["tiles"]
    if tiles is not None:
        assert tiles.double().sum((0, 2, 3)).numpy() == pytest.approx(expected["tiles_sum"], rel=1e-12, abs=1e-6)
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    assert np.abs(logits[recorded_positions(len(logits))].numpy() - expected["logits"]).max() < 1e-4
    written = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=2
    )
    assert written[0, len(logits) :].tolist() == expected["written"].tolist()


def test_saving_writes_the_published_names_and_form(checkpoint: Path, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    load_processor(str(checkpoint)).save_pretrained(tmp_path)
    saved, published = load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in published)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["DeepseekOCRForCausalLM"] and config["model_type"] == "deepseek_vl_v2"
    assert config["language_config"].items() >= LANGUAGE.items() and config.items() >= LANGUAGE.items()
    assert "auto_map" not in config, "the code that it names is not in the folder"
    again = load_model(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    assert again.config.to_dict() == {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
    processor: Any = load_processor(str(tmp_path))
    assert (processor.image_processor.tile_size, processor.image_token_id) == (640, IMAGE_TOKEN_ID)


def test_the_full_size_model_has_the_published_parameters() -> None:
    register_deepseek_ocr()
    config = AutoConfig.for_model("deepseek_vl_v2")
    with torch.device("meta"):
        full = AutoModelForImageTextToText.from_config(config)
    assert sum(weight.numel() for weight in full.parameters()) == PUBLISHED_PARAMETERS
    experts = [name for name, _ in full.named_parameters() if ".mlp.experts." in name]
    # An expert's three matrices are tensors of their own in the published file: gate and up are one here.
    split = config.text_config.n_routed_experts * 3 * len(experts) // 2
    assert len(list(full.parameters())) - len(experts) + split == PUBLISHED_TENSORS


def test_the_published_codes_own_saved_config_is_known(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "DeepseekOCR"}))
    register_deepseek_ocr()
    read = AutoConfig.from_pretrained(tmp_path)
    assert read.model_type == "deepseek_vl_v2" and read.text_config.hidden_size == LANGUAGE["hidden_size"]


@pytest.mark.parametrize("asked", [{"use_mla": True}, {"scoring_func": "sigmoid"}, {"rope_scaling": {"type": "yarn"}}])
def test_a_config_of_another_architecture_is_refused(asked: dict[str, Any]) -> None:
    register_deepseek_ocr()
    with pytest.raises(ValueError, match=next(iter(asked))):
        AutoConfig.for_model("deepseek_vl_v2", language_config={**LANGUAGE, **asked})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of 16 pixels, tiles of 160 and a view of 256: a quarter of the real model's sizes."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_tiny_deepseek_ocr(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, (10 * 3 + 1) * 10 * 2 + 16 * 17 + 1),  # gundam: 3x2 tiles of 10x10 cells, a view of 16x16
        ({"image_size": 128, "crop_mode": False}, 8 * 9 + 1),
        ({"base_size": 320, "image_size": 320, "crop_mode": False}, 20 * 21 + 1),
        ({"max_crops": 2}, (10 * 2 + 1) * 10 + 16 * 17 + 1),  # 2x1 tiles
        ({"base_size": 320}, (10 * 3 + 1) * 10 * 2 + 20 * 21 + 1),
    ],
)
def test_an_evaluation_chooses_the_mode(tiny: Path, settings: dict[str, Any], tokens: int) -> None:
    processor: Any = load_processor(str(tiny))
    family = with_image_settings(ImageSettings(**settings), processor, family_of("deepseek_vl_v2"))
    inputs = generation_inputs(processor, family, [Image.new("RGB", (400, 300), "white")], [None])
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == tokens
    model: Any = load_model(str(tiny), dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():  # the model finds as many features as there are tokens
        assert model(**inputs).logits.isfinite().all()


def test_a_view_that_is_not_of_whole_cells_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match="base_size: the model sees no view of 250 pixels; give a multiple of 16"):
        with_image_settings(ImageSettings(base_size=250), load_processor(str(tiny)), family_of("deepseek_vl_v2"))


def test_the_encoders_shortcuts_give_the_same_tokens(tiny: Path) -> None:
    model: Any = load_model(str(tiny), dtype=torch.float32, device=torch.device("cpu")).eval()
    views = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.model.vision_tower(views).last_hidden_state
        assert fold_position_biases(model) == 2
        assert encode_in_microbatches(model, pixels_at_once=256 * 256)
        after = model.model.vision_tower(views).last_hidden_state
    assert before.shape == (3, 256, 128)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
