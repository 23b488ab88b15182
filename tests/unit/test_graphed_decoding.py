"""Recorded decoding chooses the tokens that transformers' own greedy search chooses; tests/gpu replays real graphs."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import BatchFeature

from components.shared.graphed_decoding import GraphedDecoding, RecordingError
from components.shared.image_text_inputs import generation_inputs
from components.shared.model_families import family_of
from components.shared.model_loading import load_model, load_processor
from components.shared.tiny_models import save_tiny_deepseek_ocr2

MAX_NEW_TOKENS = 24
PAD = 0


class Reader:
    """A model, and the pages' tensors for it."""

    def __init__(self, base: str) -> None:
        self.model: Any = load_model(base, dtype=torch.float32, device=torch.device("cpu")).eval()
        self.processor = load_processor(base)
        self.family = family_of(self.model.config.model_type)
        self.end = self.processor.tokenizer.eos_token_id

    def inputs(self, *texts: str, height: int = 56) -> BatchFeature:
        pages = [drawn(text, height) for text in texts]
        return generation_inputs(self.processor, self.family, pages, [None] * len(texts))

    def greedy(self, inputs: BatchFeature) -> list[list[int]]:
        settings = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, "pad_token_id": PAD, "eos_token_id": self.end}
        answers = self.model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
        return [answer + [PAD] * (MAX_NEW_TOKENS - len(answer)) for answer in answers]


@pytest.fixture(scope="module", params=["tiny-base", "deepseek_ocr2"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    if request.param == "tiny-base":
        return Reader("tiny-base")
    folder: Path = tmp_path_factory.mktemp("deepseek") / "model"
    save_tiny_deepseek_ocr2(folder)
    return Reader(str(folder))


def drawn(text: str, height: int = 56) -> Image.Image:
    page = Image.new("RGB", (280, height), "white")
    ImageDraw.Draw(page).text((8, 12), text, fill="black", font_size=22)
    return page


def test_the_tokens_are_those_of_greedy_search_batch_after_batch(reader: Reader) -> None:
    decoding = GraphedDecoding(reader.model, [reader.end], PAD)
    batches = [("one line", "a"), ("b", "two lines"), ("three",), ("a longer line", "one line")]
    for texts in batches:  # the first two and the last share a shape: what the step keeps is used again
        inputs = reader.inputs(*texts)
        answers = decoding.generate(inputs, MAX_NEW_TOKENS)
        assert torch.equal(answers[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
        assert answers[:, inputs["input_ids"].shape[1] :].tolist() == reader.greedy(inputs)


def test_pages_of_other_sizes_are_read_with_the_same_step(reader: Reader) -> None:
    decoding = GraphedDecoding(reader.model, [reader.end], PAD)
    lengths = set()
    for height in (56, 112, 28):
        inputs = reader.inputs("one line", height=height)
        lengths.add(prompt := inputs["input_ids"].shape[1])
        assert decoding.generate(inputs, MAX_NEW_TOKENS)[:, prompt:].tolist() == reader.greedy(inputs)
    assert len(lengths) == 3, "a step that was recorded for one prompt serves another length"


def test_a_step_that_takes_an_unknown_tensor_is_not_recorded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = reader.model.prepare_inputs_for_generation

    @functools.wraps(prepare)  # transformers reads its signature
    def with_another(*inputs: Any, **options: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = prepare(*inputs, **options)
        return prepared if options.get("is_first_iteration") else {**prepared, "token_type_ids": torch.zeros(1, 1)}

    decoding = GraphedDecoding(reader.model, [reader.end], PAD)
    monkeypatch.setattr(reader.model, "prepare_inputs_for_generation", with_another)
    with pytest.raises(RecordingError, match="token_type_ids"):
        decoding.generate(reader.inputs("one line"), MAX_NEW_TOKENS)


def test_an_answer_that_ends_is_padded_and_others_go_on(reader: Reader) -> None:
    inputs = reader.inputs("one line", "a")
    free = GraphedDecoding(reader.model, [], PAD).generate(inputs, MAX_NEW_TOKENS)[:, -MAX_NEW_TOKENS:].tolist()
    end = free[0][2]
    ended = GraphedDecoding(reader.model, [end], PAD).generate(inputs, MAX_NEW_TOKENS)[:, -MAX_NEW_TOKENS:].tolist()
    for answer, whole in zip(ended, free, strict=True):
        length = whole.index(end) + 1 if end in whole else MAX_NEW_TOKENS
        assert answer == whole[:length] + [PAD] * (MAX_NEW_TOKENS - length)


def test_a_cpu_records_nothing(reader: Reader) -> None:
    assert not GraphedDecoding(reader.model, [reader.end], PAD).supports()
