"""Recorded decoding chooses the same tokens as transformers' greedy search; tests/gpu replays real graphs."""

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import BatchFeature, GenerationConfig, LogitsProcessorList

from components.shared.datasets.shard_reader import Sample
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams, NoRepeatNgramsProcessor
from components.shared.reading.graphed_decoding import GraphedDecoding, RecordingError
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.token_confidences import TokenConfidences
from components.shared.reading.transcriber import Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

MAX_NEW_TOKENS = 24
PAD = 0


class Reader:
    """A model and the input tensors of pages for it."""

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
    for texts in batches:  # the first two and the last have the same shape, so the recorded step is reused
        inputs = reader.inputs(*texts)
        answers = decoding.generate(inputs, MAX_NEW_TOKENS)
        assert torch.equal(answers[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
        assert answers[:, inputs["input_ids"].shape[1] :].tolist() == reader.greedy(inputs)


@pytest.mark.parametrize("rule", [None, NoRepeatNgrams(2, 8)])
def test_the_log_probabilities_are_the_models_own(reader: Reader, rule: NoRepeatNgrams | None) -> None:
    """Of the chosen tokens, before any is ruled out; recorded steps and ``generate`` give the same."""
    decoding = GraphedDecoding(reader.model, [reader.end], PAD, rule)
    for texts in (("one line", "a"), ("a longer line", "b")):
        inputs = reader.inputs(*texts)
        start, confidences = inputs["input_ids"].shape[1], TokenConfidences()
        answers = decoding.generate(inputs, MAX_NEW_TOKENS)[:, start:]
        settings = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, "pad_token_id": PAD}
        settings |= {"eos_token_id": reader.end, "output_logits": True, "return_dict_in_generate": True}
        rules = [confidences, *([NoRepeatNgramsProcessor(rule, start)] if rule else [])]
        output = reader.model.generate(**inputs, **settings, logits_processor=LogitsProcessorList(rules))
        chosen = output.sequences[:, start:]
        assert answers[:, : chosen.shape[1]].tolist() == chosen.tolist()
        exact = torch.stack(output.logits, dim=1).log_softmax(dim=-1).gather(-1, chosen[..., None])[..., 0]
        kept = torch.tensor(confidences.of_answers(output.sequences))
        for answer, *found, known in zip(chosen.tolist(), decoding.logprobs(MAX_NEW_TOKENS), kept, exact, strict=True):
            tokens = answer.index(reader.end) + 1 if reader.end in answer else len(answer)
            for one in found:
                torch.testing.assert_close(one[:tokens], known[:tokens], rtol=1e-3, atol=1e-4)


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


@pytest.fixture
def forward_passes(reader: Reader) -> Iterator[list[None]]:
    """A list that gets one entry for each forward pass of the model."""
    passes: list[None] = []
    hook = reader.model.register_forward_pre_hook(lambda *_: passes.append(None))
    yield passes
    hook.remove()


def configured(reader: Reader, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Add these values to the model's generation config."""
    values = reader.model.generation_config.to_dict() | settings
    monkeypatch.setattr(reader.model, "generation_config", GenerationConfig(**values))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"no_repeat_ngram_size": 3}, "NoRepeatNGram"),
        ({"repetition_penalty": 1.2, "suppress_tokens": [5]}, "RepetitionPenalty.*, SuppressTokens"),
        ({"begin_suppress_tokens": [5]}, "SuppressTokensAtBegin"),
        ({"bad_words_ids": [[5]]}, "NoBadWords"),
        ({"min_new_tokens": 3}, "MinLength.*, MinNewTokensLength"),
        ({"min_length": 1}, "MinLength"),
        ({"forced_eos_token_id": 2}, "ForcedEOS"),
        ({"exponential_decay_length_penalty": (4, 1.5)}, "ExponentialDecay"),
        ({"max_time": 60.0}, "MaxTimeCriteria"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
    ],
)
def test_more_than_greedy_search_is_refused_before_anything_is_computed(
    reader: Reader,
    forward_passes: list[None],
    settings: dict[str, Any],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configured(reader, monkeypatch, **settings)
    decoding = GraphedDecoding(reader.model, [reader.end], PAD)
    with pytest.raises(RecordingError, match=f"generation config asks for {named}"):
        decoding.generate(reader.inputs("one line"), MAX_NEW_TOKENS)
    assert not forward_passes


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.1, "top_k": 4, "top_p": 0.5, "num_beams": 3, "eos_token_id": [1, 2, 3]},
        {"use_cache": False, "prompt_lookup_num_tokens": 2, "max_length": 5},
        {"cache_implementation": "static"},
    ],
)
def test_what_greedy_search_is_told_otherwise_or_does_not_read_changes_nothing(
    reader: Reader, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = reader.inputs("one line", "a")
    expected = reader.greedy(inputs)
    configured(reader, monkeypatch, **settings)
    answers = GraphedDecoding(reader.model, [reader.end], PAD).generate(inputs, MAX_NEW_TOKENS)
    assert answers[:, -MAX_NEW_TOKENS:].tolist() == expected


@pytest.mark.parametrize("settings", [{"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.5}])
def test_a_transcriber_obeys_the_generation_config_and_says_why_it_is_slow(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader("tiny-base")
    picture = io.BytesIO()
    drawn("aaa aaa aaa aaa").save(picture, "PNG")
    page = Sample("page", picture.getvalue(), {"text": ""})
    monkeypatch.setattr(GraphedDecoding, "supports", lambda decoding: True)

    def texts(graphed: bool) -> list[str]:
        transcriber = Transcriber(reader.model, reader.processor, reader.family, MAX_NEW_TOKENS, graphed=graphed)
        return [prediction.text for prediction in transcriber.read([page])]

    said = "generating step by step, several times slower: the model's generation config asks for"
    free = texts(graphed=True)
    assert free == texts(graphed=False) and said not in caplog.text
    configured(reader, monkeypatch, **settings)
    assert texts(graphed=True) == texts(graphed=False) != free
    assert said in caplog.text


def test_layers_that_ask_the_host_are_not_recorded(reader: Reader, forward_passes: list[None]) -> None:
    """They are detected before, because a recording that fails in the middle locks memory until the process ends."""
    decoding = GraphedDecoding(reader.model, [reader.end], PAD)
    reader.model.quantised = type("Linear8bitLt", (torch.nn.Linear,), {})(2, 2)
    try:
        with pytest.raises(RecordingError, match="8-bit layers ask the host in each step"):
            decoding.generate(reader.inputs("one boat"), MAX_NEW_TOKENS)
    finally:
        del reader.model.quantised
    assert not forward_passes and not decoding.supports()


def test_a_cpu_records_nothing(reader: Reader) -> None:
    assert not GraphedDecoding(reader.model, [reader.end], PAD).supports()
