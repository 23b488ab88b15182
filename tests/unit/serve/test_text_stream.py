"""The pieces of a stream are the answer's text, whatever tokens come, or the stream ends with an error."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from components.serve.engines.text_stream import TextChangedError, TextStream
from components.shared.models.model_loading import load_processor
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

SENTENCES = (
    "Wir müssen, 書く “das” – don't you ? Yes , I 've .\n" * 3,
    "x' s ' y ' s n't n't ! . , 're\n",
    "\u2028 é\ufffd",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of the bundled base and of a tiny DeepSeek-OCR-2, and one with sentencepiece's spaces and bytes."""
    save_tiny_deepseek_ocr2(folder := tmp_path_factory.mktemp("base"))
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁the", "s", "t", "'", ",", "."]
    pieces = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], byte_fallback=True))
    pieces.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = {"tiny-base": load_processor("tiny-base").tokenizer, "deepseek": load_processor(str(folder)).tokenizer}
    return {**made, "pieces": PreTrainedTokenizerFast(tokenizer_object=pieces)}


def streamed(tokens: Sequence[int], decode: Any, held_back: int, chance: random.Random) -> Iterator[str]:
    """Yield the pieces for tokens that come one by one or a few at once."""
    stream, place = TextStream(decode, held_back), 0
    while place < len(tokens):
        step = chance.choice((1, 1, 4))
        yield stream.add(tokens[place : place + step])
        place += step
    yield stream.end(decode(tokens))


@pytest.mark.parametrize("name", ["tiny-base", "deepseek", "pieces"])
def test_the_pieces_are_the_text(name: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, chance, pieces = tokenizers[name], random.Random(7), 0

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    texts = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    for number in range(200):
        tokens = [chance.randrange(len(tokenizer)) for _ in range(chance.randrange(1, 60))]
        tokens = texts[number % len(texts)] + tokens if number % 2 else tokens
        try:
            found = [piece for piece in streamed(tokens, decode, 0, chance) if piece]
        except TextChangedError:
            assert name == "pieces", "its decoder takes back characters when a wrong byte follows"
            continue
        assert "".join(found) == decode(tokens)
        pieces += len(found)
    assert pieces > 500, "the text comes while it is written"


def test_cleaned_up_spaces_are_held_back(tokenizers: dict[str, Any]) -> None:
    """A tokenizer that cleans up writes `` ,`` as ``,``: what may still change is not sent."""
    tokenizer, chance = tokenizers["tiny-base"], random.Random(3)

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.clean_up_tokenization(tokenizer.decode(list(tokens))))

    signs = ["a", " ", " ", ",", ".", "'", "s", "n", "t", "v", "e", "\n"]
    for _ in range(300):
        tokens = tokenizer("".join(chance.choice(signs) for _ in range(40)))["input_ids"]
        assert "".join(streamed(tokens, decode, 4, chance)) == decode(tokens)


def test_text_that_would_change_ends_the_stream() -> None:
    stream = TextStream(lambda tokens: "".join("ab"[token] for token in tokens).replace("ab", "xyz"), 0)
    assert stream.add([0]) + stream.add([0]) == "aa"
    with pytest.raises(TextChangedError):
        stream.add([1])
    with pytest.raises(TextChangedError):
        stream.end("xyz")


def test_the_work_of_a_step_does_not_grow_with_the_answer() -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return "".join(map(chr, tokens))

    stream = TextStream(decode, 0)
    text = "".join(stream.add([65 + number % 26]) for number in range(2000))
    assert (len(text), stream.end(text)) == (2000, "")
    assert longest <= 3
