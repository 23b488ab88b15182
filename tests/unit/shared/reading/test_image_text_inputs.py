"""A page's tokens in training: the prompt's tokens as in generation, followed by those of its text."""

from functools import cache

import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import DeepseekOcr2Processor, PreTrainedTokenizerFast
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from components.shared.errors import UserError
from components.shared.models.model_families import FAMILIES
from components.shared.reading.image_text_inputs import IGNORED_LABEL, generation_inputs, training_inputs

PICTURE = Image.new("RGB", (64, 64), "white")
TEXT = ["Free OCR. The page. the page of The invoice. Hello The invoice number and the total page 3\n"] * 50
ANSWERS = ["The invoice", "page 3", "(a) x", " a space before", "", "an <image> element and <|end|> as text"]


def words_with_a_space_before() -> Tokenizer:
    """Join a space to the word after it, like the tokenizers of DeepSeek and GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def texts_with_a_dummy_space() -> Tokenizer:
    """Put a space in front of every text, like SentencePiece."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


@cache
def processor_of(kind: str) -> DeepseekOcr2Processor:
    tokenizer = {"joined": words_with_a_space_before, "prefixed": texts_with_a_dummy_space}[kind]()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "joined" else list("▁\n<>|()")
    special = ["<|end|>", "<|pad|>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXT, *ANSWERS], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens={"image_token": "<image>"},
    )
    return DeepseekOcr2Processor(image_processor=DeepseekOcr2ImageProcessorPil(), tokenizer=fast)


@pytest.mark.parametrize("instruction", [None, "Free OCR. ", "Summarise: "])
@pytest.mark.parametrize("kind", ["joined", "prefixed"])
def test_a_training_row_is_what_reading_sees_and_then_writes(kind: str, instruction: str | None) -> None:
    processor, family = processor_of(kind), FAMILIES["deepseek_ocr2"]
    pages = ([PICTURE] * len(ANSWERS), [instruction] * len(ANSWERS))
    batch = training_inputs(processor, family, *pages, ANSWERS, pad_to_multiple_of=8)
    prompt = generation_inputs(processor, family, [PICTURE], [instruction])["input_ids"][0].tolist()
    assert batch["input_ids"].shape[1] % 8 == 0
    for ids, labels, mask, answer in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], ANSWERS, strict=True
    ):
        length = int(mask.sum())
        assert ids[: len(prompt)].tolist() == prompt
        assert labels[: len(prompt)].eq(IGNORED_LABEL).all() and labels[length:].eq(IGNORED_LABEL).all()
        written = labels[len(prompt) : length]
        assert torch.equal(written, ids[len(prompt) : length]) and written[-1] == processor.tokenizer.eos_token_id
        # Decode after another word, so that the decoder does not strip a space at the beginning.
        word = processor.tokenizer("The", add_special_tokens=False).input_ids
        assert processor.tokenizer.decode([*word, *written[:-1].tolist()]) == "The" + answer


def test_a_special_token_s_name_in_a_page_is_text() -> None:
    processor = processor_of("joined")
    batch = training_inputs(processor, FAMILIES["deepseek_ocr2"], [PICTURE] * 2, [None] * 2, ["page", ANSWERS[-1]])
    plain, named = (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(dim=1)
    assert plain == named > 0
    assert (batch["labels"][1] == processor.tokenizer.eos_token_id).sum() == 1


def test_an_instruction_with_the_image_token_is_refused() -> None:
    arguments = (processor_of("joined"), FAMILIES["deepseek_ocr2"], [PICTURE], ["<image>\nFree OCR."])
    with pytest.raises(UserError, match="the picture is there already"):
        training_inputs(*arguments, ["page"])
    with pytest.raises(UserError, match="the picture is there already"):
        generation_inputs(*arguments)


def test_what_is_too_long_loses_its_end() -> None:
    arguments = (processor_of("joined"), FAMILIES["deepseek_ocr2"], [PICTURE], [None], ["The invoice number"])
    whole, cut = training_inputs(*arguments), training_inputs(*arguments, 260)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(cut[name], whole[name][:, :260])
