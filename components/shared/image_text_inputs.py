"""Pages and prompts as a model's input tensors: the same for training and for generation."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from components.shared.errors import UserError
from components.shared.model_families import ModelFamily

IGNORED_LABEL = -100
_TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def prompt_text(processor: ProcessorMixin, family: ModelFamily, instruction: str | None) -> str:
    """Return the text before the answer, with the image token in it; without an instruction the family's prompt.

    Raises:
        UserError: the instruction holds the image token, which stands for one picture more.
    """
    prompt = instruction or family.prompt
    token = getattr(processor, "image_token", None)
    if token and token in prompt:
        raise UserError(
            f"{prompt!r} holds {token!r}, and the picture is there already",
            where="the pages' instruction",
            mend="prepare them again with an instruction that is text alone",
        )
    if processor.chat_template is None:
        template = family.prompt_template or "<image>\n{prompt}"
        return template.format(prompt=prompt)
    content: Any = [{"type": "image"}, {"type": "text", "text": prompt}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def generation_inputs(
    processor: ProcessorMixin, family: ModelFamily, images: Sequence[Image.Image], instructions: Sequence[str | None]
) -> BatchFeature:
    """Return left-padded tensors for ``model.generate``; ``input_ids`` has shape (pages, tokens)."""
    prompts = [prompt_text(processor, family, instruction) for instruction in instructions]
    return _processed(processor, family, images, prompts, padding_side="left")


def training_inputs(
    processor: ProcessorMixin,
    family: ModelFamily,
    images: Sequence[Image.Image],
    instructions: Sequence[str | None],
    answers: Sequence[str],
    max_length: int | None = None,
    pad_to_multiple_of: int = 1,
) -> dict[str, Any]:
    """Return right-padded tensors with ``labels`` of shape (pages, tokens), -100 outside of the answers.

    Answers end with the tokenizer's end-of-sequence token. With ``max_length`` (tokens) longer rows lose the
    end of their answer; the caller counts them. ``pad_to_multiple_of`` (tokens) rounds the rows' common length up.
    """
    prompts = [prompt_text(processor, family, instruction) for instruction in instructions]
    batch = _processed(processor, family, images, prompts, padding_side="right")
    prompt_lengths = batch["attention_mask"].sum(dim=1).tolist()
    answer_ids = [answer_tokens(processor.tokenizer, answer) for answer in answers]
    # Of each of the processor's tensors over tokens: what stands behind the prompt, and in the padding.
    tails: dict[str, tuple[list[list[int]], int]] = {
        "input_ids": (answer_ids, processor.tokenizer.pad_token_id),
        "attention_mask": ([[1] * len(ids) for ids in answer_ids], 0),
        **{name: ([[0] * len(ids) for ids in answer_ids], 0) for name in _TOKEN_TYPES if name in batch},
    }
    labels = torch.full_like(batch["input_ids"], IGNORED_LABEL)
    rows = {name: (batch[name], *tail) for name, tail in tails.items()} | {
        "labels": (labels, answer_ids, IGNORED_LABEL)
    }
    return dict(batch) | {
        name: _continued(values, prompt_lengths, tail, filler, pad_to_multiple_of)[:, :max_length]
        for name, (values, tail, filler) in rows.items()
    }


def answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    """Return the tokens that a model writes for ``answer`` after its prompt, the end-of-sequence token included.

    They are those of the answer alone. As one text with the prompt, a tokenizer may join the prompt's last character
    and the answer's first word to one token, which no model sees that is given the prompt. A special token's name
    that stands in the answer is text.
    """

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    ids = tokens(answer)
    # SentencePiece's dummy prefix, a space, belongs to a text's beginning, and this is no beginning.
    if ids and tokenizer.convert_ids_to_tokens(ids[0]).startswith(_SPACE):
        newline, anchored = tokens("\n"), tokens("\n" + answer)
        if anchored[: len(newline)] == newline:
            ids = anchored[len(newline) :]
    return [*ids, tokenizer.eos_token_id]


def _continued(
    prompts: torch.Tensor, lengths: list[int], tails: list[list[int]], filler: int, multiple: int
) -> torch.Tensor:
    """Put ``tails`` behind the rows of ``prompts``, which have ``lengths``, and pad to a multiple of tokens."""
    longest = max(length + len(tail) for length, tail in zip(lengths, tails, strict=True))
    continued = prompts.new_full((len(tails), -(-longest // multiple) * multiple), filler)
    for row, (prompt, length, tail) in enumerate(zip(prompts, lengths, tails, strict=True)):
        continued[row, :length] = prompt[:length]
        continued[row, length : length + len(tail)] = torch.tensor(tail, dtype=prompts.dtype)
    return continued


def _processed(
    processor: ProcessorMixin,
    family: ModelFamily,
    images: Sequence[Image.Image],
    texts: list[str],
    padding_side: str,
) -> BatchFeature:
    processor.tokenizer.padding_side = padding_side
    return processor(
        images=[image.convert("RGB") for image in images],
        text=texts,
        padding=True,
        return_tensors="pt",
        **family.image_options,
    )
