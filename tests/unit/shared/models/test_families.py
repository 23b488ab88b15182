"""The table of families in docs/models.md, row by row, with tiny random models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from components.shared.errors import UserError
from components.shared.models.model_families import family_of, in_language_model
from components.shared.models.model_loading import load_processor
from components.shared.models.processor_packages import needed_packages, used_packages
from components.shared.models.refused_families import check_family_is_supported
from components.shared.reading.image_text_inputs import prompt_text, training_inputs
from components.train.batches.rope_positions import rope_positions_of
from components.train.step import run
from pipelines.task_side.resolution import resolve
from tests.fixtures.family_matrix import tried
from tests.fixtures.family_table import FAMILY_TABLE, MATRIX, MODELS_PAGE, TRIED_PARTS, models_page
from tests.fixtures.tiny_families import TINY_FAMILIES, byte_tokenizer
from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config

WORKING = [row.model_type for row in FAMILY_TABLE if row.status == "works"]
NEED_TORCHVISION = [row.model_type for row in FAMILY_TABLE if row.status == "needs torchvision"]
PAGES = [Image.new("RGB", (56, 56), "white"), Image.new("RGB", (60, 100), "black")]
try:
    import torchvision  # noqa: F401
except ImportError:
    WITHOUT_TORCHVISION = True
else:
    WITHOUT_TORCHVISION = False


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("families"), boats(12, 3), pages=6, lines_per_page=(1, 2))


def test_the_page_shows_what_was_found() -> None:
    assert MODELS_PAGE.read_text(encoding="utf-8") == models_page(), "run python -m tests.fixtures.family_table"
    found = json.loads(MATRIX.read_text(encoding="utf-8"))
    assert found.keys() == {*WORKING, *NEED_TORCHVISION} and set(WORKING) == TINY_FAMILIES.keys()
    assert all(row[part] for row in found.values() for part in TRIED_PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WORKING)
def test_a_family_trains_is_evaluated_and_merged(model_type: str, made: Path, tmp_path: Path) -> None:
    found = tried(TINY_FAMILIES[model_type], made, tmp_path)
    assert all(found[part] for part in TRIED_PARTS), found
    adapted = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert adapted and all(in_language_model(name) for name in adapted)


@pytest.mark.slow
@pytest.mark.skipif(obstacle_to_torchvision() is not None, reason=str(obstacle_to_torchvision()))
def test_the_families_that_need_torchvision_work_with_it() -> None:
    command = [sys.executable, "-m", "tests.fixtures.family_matrix", *NEED_TORCHVISION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["family"] for row in rows] == NEED_TORCHVISION
    assert [row for row in rows if not all(row[part] for part in TRIED_PARTS)] == []


def test_what_a_processor_needs_is_known_before_a_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model_type in WORKING:
        assert needed_packages(model_type) == [], model_type
    for model_type in NEED_TORCHVISION:
        assert needed_packages(model_type)[0] == "torchvision", model_type
    if WITHOUT_TORCHVISION:
        model = tmp_path / "base"
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
        (model / "model.safetensors").touch()
        settings = yaml.safe_dump({"base_model": str(model), "source": "python-docs"})
        with pytest.raises(UserError, match=r"the processor of the family qwen3_vl needs torchvision, not installed"):
            resolve(settings, {})
        (model / "config.json").write_text(json.dumps({"model_type": "smolvlm"}))
        monkeypatch.setenv("DEEPSYNTH_GIT_COMMIT", "0" * 40)  # as in an image, whose packages another image may lack
        with pytest.raises(UserError, match=r"needs torchvision and num2words, .*or run in the images"):
            resolve(settings, {})


def test_a_package_s_requirements_name_what_its_processor_uses() -> None:
    class TorchvisionBackend: ...

    class Pictures(TorchvisionBackend): ...

    class SmolVLMProcessor:
        def __init__(self) -> None:
            self.image_processor = Pictures()

    assert used_packages(SmolVLMProcessor()) == ["torchvision", "num2words"]
    assert used_packages(load_processor("tiny-base")) == []


@pytest.mark.parametrize("model_type", ["gemma3", "mllama", "got_ocr2", "kosmos-2.5"])
def test_a_batch_of_two_pages_has_a_picture_in_each_row(model_type: str, tmp_path: Path) -> None:
    TINY_FAMILIES[model_type](tmp_path / "base")
    processor, family = load_processor(str(tmp_path / "base")), family_of(model_type)
    batch = training_inputs(processor, family, PAGES, [None, None], ["one", "two"])
    image = processor.tokenizer.convert_tokens_to_ids(
        {"gemma3": "<image_soft_token>"}.get(model_type, processor.image_token)
    )
    first, second = (batch["input_ids"] == image).sum(dim=1).tolist()
    assert first == second > 0


@pytest.mark.parametrize("model_type", [row.model_type for row in FAMILY_TABLE if row.status == "refused"])
def test_a_family_that_cannot_be_trained_is_refused_by_its_config(model_type: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": model_type, "is_encoder_decoder": True}))
    with pytest.raises(UserError, match=r"encoder-decoder.*DeepSeek-OCR-2"):
        run(train_config(made, tmp_path / "out", {"base_model": str(tmp_path / "base"), "backend": "standard"}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("published", ["DeepseekOCR2ForCausalLM", "DeepseekVLV2ForCausalLM"])
def test_other_models_under_the_first_deepseek_ocrs_model_type_are_refused(published: str, tmp_path: Path) -> None:
    config = {"model_type": "deepseek_vl_v2", "architectures": [published]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"{published} has no class.*use deepseek-community/DeepSeek-OCR-2"):
        check_family_is_supported(str(tmp_path))


@pytest.mark.skipif(not WITHOUT_TORCHVISION, reason="about machines without torchvision")
@pytest.mark.parametrize("model_type", ["qwen2_vl"])
def test_without_torchvision_one_line_names_it(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Qwen2VLImageProcessor"}))
    byte_tokenizer({"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="install torchvision"):
        load_processor(str(tmp_path))


def test_ends_of_names_never_adapt_the_vision_encoder_and_full_names_do(made: Path, tmp_path: Path) -> None:
    short = {"backend": "standard", "max_steps": 2}
    with pytest.raises(UserError, match=r"no linear module of the language model is named fc1, only others such as"):
        run(train_config(made, tmp_path / "ends", {**short, "target_modules": ["q_proj", "fc1"]}))
    full = "model.visual.vision_model.encoder.layers.0.mlp.fc1"
    run(train_config(made, tmp_path / "full", {**short, "target_modules": [full], "gradient_checkpointing": True}))
    adapted = load_file(tmp_path / "full" / "adapter_model.safetensors")
    assert {name.partition(".lora_")[0] for name in adapted} == {f"base_model.model.{full}"}
    assert any(values.abs().sum() for name, values in adapted.items() if "lora_B" in name), "it was trained"


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["got_ocr2", "kosmos-2.5", "lighton_ocr"])
def test_vision_layers_are_trained_if_they_are_asked_for(model_type: str, made: Path, tmp_path: Path) -> None:
    TINY_FAMILIES[model_type](tmp_path / "base")
    asked = {"backend": "standard", "max_steps": 2, "finetune_vision_layers": True, "max_length": 8192}
    run(train_config(made, tmp_path / "adapter", {"base_model": str(tmp_path / "base"), **asked}))
    adapted = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    pictures = {name: values for name, values in adapted.items() if "lora_B" in name and not in_language_model(name)}
    assert pictures and not [name for name, values in pictures.items() if not values.abs().sum()]


def test_a_prompt_without_an_image_token_is_refused(tmp_path: Path) -> None:
    TINY_FAMILIES["llava"](tmp_path)
    processor = load_processor(str(tmp_path))
    processor.chat_template = "{{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(UserError, match="has no image token"):
        prompt_text(processor, family_of("llava"), None)


def test_a_processor_without_an_image_token_is_refused() -> None:
    processor = BlipProcessor(BlipImageProcessorPil(), byte_tokenizer({}))
    with pytest.raises(UserError, match="BlipProcessor has no image token"):
        prompt_text(processor, family_of("blip"), None)


def test_other_position_ids_than_the_known_families_are_refused() -> None:
    class Inner(torch.nn.Module):
        def get_rope_index(self, input_ids: object, image_grid_thw: object, audio_seqlens: object) -> None: ...

    class Model(torch.nn.Module):
        model = Inner()

    with pytest.raises(UserError, match="Inner computes its position ids from other values than input_ids"):
        rope_positions_of(Model())  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_a_processor_raises_is_one_line_with_family_and_processor(
    workers: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise StopIteration

    monkeypatch.setattr("transformers.PaddleOCRVLProcessor.__call__", ends)
    settings = {"max_steps": 2, "backend": "standard", "dataloader_num_workers": workers}
    with pytest.raises(UserError) as said:
        run(train_config(made, tmp_path / "out", settings))
    assert str(said.value).startswith("base_model: the processor PaddleOCRVLProcessor of the family paddleocr_vl fails")
    assert "StopIteration" in str(said.value) and "Traceback" not in str(said.value)


def test_a_training_of_fewer_steps_than_planned_is_an_error(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.train.loop.page_trainer.PageTrainer.train", lambda *_, **__: None)
    with pytest.raises(UserError, match="ended after 0 of 3 steps"):
        run(train_config(made, tmp_path / "out", {"max_steps": 3, "backend": "standard"}))
    assert not (tmp_path / "out").exists()
