"""The table of families in docs/models.md, row by row, with tiny random models."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.models.adapter_loading import load_fine_tuned, load_fine_tuned_processor
from components.shared.models.model_families import family_of, in_language_model
from components.shared.models.model_loading import load_processor
from components.shared.models.refused_families import check_family_is_supported
from components.shared.reading.image_text_inputs import prompt_text, training_inputs
from components.shared.reading.transcriber import Transcriber
from components.train.step import run
from tests.fixtures.family_table import FAMILY_TABLE, MODELS_PAGE, models_page
from tests.fixtures.tiny_families import TINY_FAMILIES, byte_tokenizer
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config

WORKING = [row.model_type for row in FAMILY_TABLE if row.status == "works"]
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


def test_the_page_shows_the_table() -> None:
    assert MODELS_PAGE.read_text(encoding="utf-8") == models_page(), "run python -m tests.fixtures.family_table"
    assert set(WORKING) == TINY_FAMILIES.keys() - {"idefics3"}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WORKING)
def test_a_family_trains_in_batches_and_reads_with_its_adapter(model_type: str, made: Path, tmp_path: Path) -> None:
    TINY_FAMILIES[model_type](tmp_path / "base")
    settings = {"base_model": str(tmp_path / "base"), "max_steps": 2, "per_device_train_batch_size": 2}
    result = run(train_config(made, tmp_path / "adapter", settings | {"backend": "standard", "max_length": 8192}))
    assert result.training.steps == 2 and len(result.training.losses) == 2
    adapted = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert adapted and all(in_language_model(name) for name in adapted)
    place = {"dtype": torch.float32, "device": torch.device("cpu")}
    model = load_fine_tuned(str(tmp_path / "base"), tmp_path / "adapter", **place)
    processor = load_fine_tuned_processor(str(tmp_path / "base"), tmp_path / "adapter")
    held_out = ShardDataset(made / "dataset", "eval")
    read = Transcriber(model, processor, family_of(model_type), 4, graphed=False).read([held_out[0], held_out[0]])
    assert len(read) == 2 and read[0].text == read[1].text and not any(page.error for page in read)


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
@pytest.mark.parametrize("model_type", [row.model_type for row in FAMILY_TABLE if row.status == "needs torchvision"])
def test_without_torchvision_one_line_names_it(model_type: str, tmp_path: Path) -> None:
    if model_type in TINY_FAMILIES:
        TINY_FAMILIES[model_type](tmp_path)
    else:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "Qwen2VLImageProcessor"})
        )
        byte_tokenizer({"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="install torchvision"):
        load_processor(str(tmp_path))


def test_a_prompt_without_an_image_token_is_refused(tmp_path: Path) -> None:
    TINY_FAMILIES["llava"](tmp_path)
    processor = load_processor(str(tmp_path))
    processor.chat_template = "{{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(UserError, match="has no image token"):
        prompt_text(processor, family_of("llava"), None)


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
