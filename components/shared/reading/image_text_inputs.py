"""Pages and prompts as a model's input tensors: the same for training and for generation."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from components.shared.errors import UserError, first_line
from components.shared.models.model_families import ModelFamily
from components.shared.reading.chat_templates import rendered_prompt

IGNORED_LABEL = -100
_PICTURE_MASK = "image_embeds_position_mask"
OVER_TOKENS = (
    *("input_ids", "labels", "attention_mask", "token_type_ids", "mm_token_type_ids"),
    *("cross_attention_mask", _PICTURE_MASK),
)
"""The tensors in a processor's output that have a value for each token."""
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def prompt_text(processor: ProcessorMixin, family: ModelFamily, instruction: str | None) -> str:
    """Return the text before the answer, including the image token; without an instruction the family's prompt.

    Raises:
        UserError: the instruction contains the image token, which would mean another picture, the chat template fails
            or leaves the image token out, or the processor has none.
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
        if not token and not family.processor_adds_image:
            raise UserError(
                f"{type(processor).__name__} has no image token, so there is no place for the page in the prompt",
                where=f"base_model of the family {family.name}",
                mend="choose a family of docs/models.md",
            )
        text = family.prompt_template.format(image=token, prompt=prompt)
    else:
        text = rendered_prompt(processor, prompt, where=f"base_model of the family {family.name}")
    if token and token not in text and not family.processor_adds_image:
        raise UserError(
            f"the prompt {text!r} has no image token ({token!r}), so the model would not see the page",
            where=f"base_model of the family {family.name}",
            mend="correct the processor's chat template",
        )
    return text


def generation_inputs(
    processor: ProcessorMixin, family: ModelFamily, images: Sequence[Image.Image], instructions: Sequence[str | None]
) -> BatchFeature:
    """Return left-padded tensors for ``model.generate``; ``input_ids`` has shape (pages, tokens)."""
    prompts = [prompt_text(processor, family, instruction) for instruction in instructions]
    batch = _processed(processor, family, images, prompts, padding_side="left")
    if _PICTURE_MASK in batch:
        batch[_PICTURE_MASK] = _behind_padding(batch, processor)
    return batch


def _behind_padding(batch: BatchFeature, processor: Any) -> torch.Tensor:
    """Return the mask of the pictures' tokens, in each row behind its padding.

    Kosmos-2.5's processor (transformers 5.17) pads prompts of different lengths on the left, but writes the mask from
    each row's first place on: the picture would stand in the padding and over the prompt.
    """
    mask = batch[_PICTURE_MASK]
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    if torch.equal(mask == 1, batch["input_ids"] == token):
        return mask
    padding = (batch["attention_mask"] == 0).sum(dim=1)
    return torch.stack([row.roll(int(places)) for row, places in zip(mask, padding, strict=True)])


def training_inputs(
    processor: ProcessorMixin,
    family: ModelFamily,
    images: Sequence[Image.Image],
    instructions: Sequence[str | None],
    answers: Sequence[str],
    max_length: int | None = None,
    pad_to_multiple_of: int = 1,
) -> dict[str, Any]:
    """Return right-padded tensors with ``labels`` of shape (pages, tokens), -100 outside the answers.

    Answers end with the tokenizer's end-of-sequence token. ``max_length`` (tokens) truncates the answers of longer
    rows; the caller counts them. ``pad_to_multiple_of`` (tokens) rounds the rows' common length up.
    """
    prompts = [prompt_text(processor, family, instruction) for instruction in instructions]
    batch = _processed(processor, family, images, prompts, padding_side="right")
    prompt_lengths = batch["attention_mask"].sum(dim=1).tolist()
    answer_ids = [answer_tokens(processor.tokenizer, answer) for answer in answers]
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED_LABEL)
    _check_tensors_over_tokens(batch)
    fillers = {"input_ids": processor.tokenizer.pad_token_id, "labels": IGNORED_LABEL}
    for name in set(OVER_TOKENS) & set(batch):
        rows = [
            torch.cat([prompt[:length], _over_answer(name, prompt[length - 1], torch.tensor(ids), family)])
            for prompt, length, ids in zip(batch[name], prompt_lengths, answer_ids, strict=True)
        ]
        batch[name] = _padded(rows, fillers.get(name, 0), pad_to_multiple_of)[:, :max_length]
    return dict(batch)


def answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    """Return the tokens that a model writes for ``answer`` after its prompt, the end-of-sequence token included.

    The answer is tokenised separately. In one text with the prompt, a tokenizer may merge the prompt's last character
    and the answer's first word into one token, which never occurs in generation because the prompt is already
    tokenised. The name of a special token in the answer is treated as text.
    """

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    ids = tokens(answer)
    # SentencePiece adds a dummy space at the beginning of a text, but the answer continues the prompt.
    if ids and tokenizer.convert_ids_to_tokens(ids[0]).startswith(_SPACE):
        newline, anchored = tokens("\n"), tokens("\n" + answer)
        if anchored[: len(newline)] == newline:
            ids = anchored[len(newline) :]
    return [*ids, tokenizer.eos_token_id]


def _over_answer(name: str, last: torch.Tensor, ids: torch.Tensor, family: ModelFamily) -> torch.Tensor:
    """Return the values of the tensor ``name`` for an answer's tokens ``ids``; ``last`` is its prompt's last value."""
    if name in ("input_ids", "labels"):
        return ids.to(last.dtype)
    if name == "cross_attention_mask":  # the answer attends to the same pictures as the prompt's end
        return last.expand(len(ids), *last.shape)
    values = {"attention_mask": 1, "token_type_ids": family.answer_token_type}
    return last.new_full((len(ids),), values.get(name, 0))


def _padded(rows: list[torch.Tensor], filler: int, multiple: int) -> torch.Tensor:
    """Return ``rows`` as one tensor, right-padded to the longest row's length, rounded up to ``multiple`` tokens."""
    length = -(-max(map(len, rows)) // multiple) * multiple
    padded = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), filler)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _check_tensors_over_tokens(batch: BatchFeature) -> None:
    tokens = batch["input_ids"].shape
    tensors = {name: values for name, values in batch.items() if isinstance(values, torch.Tensor)}
    unknown = [name for name, values in tensors.items() if values.shape[:2] == tokens and name not in OVER_TOKENS]
    if unknown:
        raise UserError(
            f"the processor gives {', '.join(unknown)} for each token, and what an answer has there is not known",
            where="base_model",
            mend="take a model of another family, or add the name to components/shared/reading/image_text_inputs.py",
        )


def text_options(processor: ProcessorMixin, prompts: Sequence[str]) -> dict[str, Any]:
    """Return the processor's options for prompts to which the chat template has already added the first token."""
    begin = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if begin and all(text.startswith(begin) for text in prompts) else {}


def _processed(
    processor: ProcessorMixin,
    family: ModelFamily,
    images: Sequence[Image.Image],
    texts: list[str],
    padding_side: str,
) -> BatchFeature:
    processor.tokenizer.padding_side = padding_side
    pictures = [image.convert("RGB") for image in images]
    try:
        return processor(
            images=pictures if family.flat_images else [[picture] for picture in pictures],
            text=texts,
            padding=True,
            padding_side=padding_side,  # the default of some processors overrides the tokenizer's
            return_tensors="pt",
            **text_options(processor, texts),
            **family.image_options,
        )
    except (UserError, MemoryError):
        raise
    except Exception as error:  # all, because a StopIteration would end a data loader silently
        raise UserError(
            f"the processor {type(processor).__name__} of the family {family.name} fails on a page"
            f" ({type(error).__name__}: {first_line(error)})",
            where="base_model",
            mend="choose a family of docs/models.md, or report the page and the processor's message",
        ) from error
