"""Training rows of families that have no separate tests in this project, with their real processors."""

from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import MllamaProcessor, PaliGemmaProcessor, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qianfan_ocr.processing_qianfan_ocr import QianfanOCRProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.reading.image_text_inputs import generation_inputs, training_inputs

SMALL, TALL = Image.new("RGB", (56, 56)), Image.new("RGB", (56, 168))
SIDES = {"height": 28, "width": 28}


def template(image: str, begin: str = "") -> str:
    return (
        begin + "{% for message in messages %}<user>{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}<assistant>"
    )


def byte_tokenizer(extra: dict[str, str], *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", *extra.values()])
    if adds_bos:
        begin = [("<bos>", tokenizer.token_to_id("<bos>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=begin)
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=extra, **names)


def qianfan() -> QianfanOCRProcessor:
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    pictures = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, min_patches=1, max_patches=4)
    tokenizer = byte_tokenizer(marks)
    return QianfanOCRProcessor(pictures, tokenizer, image_seq_length=4, chat_template=template("<image>"))


def mllama() -> MllamaProcessor:
    tokenizer = byte_tokenizer({"image_token": "<|image|>"}, adds_bos=True)
    pictures = MllamaImageProcessorPil(size=SIDES, max_image_tiles=2)
    return MllamaProcessor(pictures, tokenizer, chat_template=template("<|image|>", "{{ bos_token }}"))


def rows_of(processor: Any, model_type: str, images: list[Image.Image], answers: list[str]) -> dict[str, Any]:
    """Return training rows after checking that they begin with the same tokens as in generation."""
    family = family_of(model_type)
    batch = training_inputs(processor, family, images, ["Read."] * len(images), answers)
    for row, (image, answer) in enumerate(zip(images, answers, strict=True)):
        prompt = generation_inputs(processor, family, [image], ["Read."])["input_ids"][0].tolist()
        whole = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert whole[: len(prompt)] == prompt
        assert processor.tokenizer.decode(whole[len(prompt) :]) == answer + "<eos>"
    return batch


def test_a_processor_that_would_pad_on_the_left_keeps_its_prompts() -> None:
    batch = rows_of(qianfan(), "qianfan_ocr", [SMALL, TALL], ["AB", "CD"])
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"].all()


def test_the_picture_s_mask_reaches_over_the_answer_and_the_prompt_begins_once() -> None:
    processor = mllama()
    batch = rows_of(processor, "mllama", [SMALL], ["answer"])
    mask = batch["cross_attention_mask"]
    assert mask.shape[1] == batch["input_ids"].shape[1] and torch.equal(mask[0, -1], mask[0, -8])
    assert (batch["input_ids"] == processor.tokenizer.bos_token_id).sum() == 1


def test_an_answer_of_paligemma_does_not_see_ahead() -> None:
    pictures = SiglipImageProcessorPil(size=SIDES)
    pictures.image_seq_length = 4
    processor = PaliGemmaProcessor(pictures, byte_tokenizer({"image_token": "<image>"}))
    batch = rows_of(processor, "paligemma", [SMALL], ["answer"])
    assert torch.equal(batch["token_type_ids"] == 1, batch["labels"] != -100)


def test_a_tensor_over_tokens_that_is_not_known_is_refused() -> None:
    class Odd(MllamaProcessor):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            batch = super().__call__(*arguments, **options)
            batch["odd_ids"] = batch["input_ids"]
            return batch

    processor = mllama()
    processor.__class__ = Odd
    with pytest.raises(UserError, match="gives odd_ids for each token"):
        training_inputs(processor, family_of("mllama"), [SMALL], ["Read."], ["answer"])
