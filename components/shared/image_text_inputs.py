"""Pages and prompts as a model's input tensors: the same for training and for generation."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from components.shared.model_families import ModelFamily

IGNORED_LABEL = -100


def prompt_text(processor: ProcessorMixin, family: ModelFamily, instruction: str | None) -> str:
    """Return the text before the answer, with the image token in it; without an instruction the family's prompt."""
    prompt = instruction or family.prompt
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
    end = processor.tokenizer.eos_token
    texts = [prompt + answer + end for prompt, answer in zip(prompts, answers, strict=True)]
    batch = dict(_processed(processor, family, images, texts, padding_side="right", multiple=pad_to_multiple_of))
    answer_lengths = [len(processor.tokenizer(answer + end, add_special_tokens=False).input_ids) for answer in answers]
    lengths = batch["attention_mask"].sum(dim=1)
    positions = torch.arange(batch["input_ids"].shape[1])
    starts = (lengths - torch.tensor(answer_lengths))[:, None]
    in_answer = (positions >= starts) & (positions < lengths[:, None])
    batch["labels"] = batch["input_ids"].masked_fill(~in_answer, IGNORED_LABEL)
    if max_length is not None and batch["input_ids"].shape[1] > max_length:
        for name in ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "token_type_ids"):
            if name in batch:
                batch[name] = batch[name][:, :max_length]
    return batch


def _processed(
    processor: ProcessorMixin,
    family: ModelFamily,
    images: Sequence[Image.Image],
    texts: list[str],
    padding_side: str,
    multiple: int = 1,
) -> BatchFeature:
    processor.tokenizer.padding_side = padding_side
    return processor(
        images=[image.convert("RGB") for image in images],
        text=texts,
        padding=True,
        pad_to_multiple_of=multiple,
        return_tensors="pt",
        **family.image_options,
    )
