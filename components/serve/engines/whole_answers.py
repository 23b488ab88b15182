"""Decoding for models whose steps cannot be shared: transformers' ``generate`` reads a group of pages to its end.

Pages that come meanwhile wait. It has the methods of ``RunningRows``, so the engine does not care which one it has.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature

from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams, NoRepeatNgramsProcessor
from components.shared.reading.token_confidences import TokenConfidences


@dataclass(frozen=True)
class Read:
    """Answers that are there already."""

    answers: list[list[tuple[int, float]]]

    def steps(self) -> list[list[tuple[int, float]]]:
        """Return each row's further tokens with their log-probabilities."""
        return self.answers


class WholeAnswers:
    """Groups of pages; all tokens of a group's rows come with the first call of ``launch`` after it entered."""

    looks_ahead = 0

    def __init__(
        self,
        model: Any,
        most_rows: int,
        end_tokens: list[int],
        pad_token: int,
        no_repeat: NoRepeatNgrams | None = None,
    ) -> None:
        self._model, self._no_repeat = model, no_repeat
        self._most_rows = most_rows
        self._end_tokens, self._pad_token = end_tokens, pad_token
        self._answers: list[list[tuple[int, float]]] = []

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def free(self) -> int:
        """How many rows may enter: none while a group is there."""
        return 0 if self._answers else self._most_rows

    @torch.inference_mode()
    def enter(self, inputs: BatchFeature, max_new_tokens: int) -> list[tuple[int, float]]:
        """Read pages to their ends; return each one's first token and its log-probability."""
        confidences, prompt_tokens = TokenConfidences(), inputs["input_ids"].shape[1]
        rules = [NoRepeatNgramsProcessor(self._no_repeat, prompt_tokens)] if self._no_repeat else []
        output = self._model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._pad_token,
            logits_processor=[confidences, *rules],
        )
        tokens = output[:, prompt_tokens:].tolist()
        logprobs = confidences.of_answers(output)
        answers = [list(zip(*row, strict=True)) for row in zip(tokens, logprobs, strict=True)]
        self._answers += [answer[1:] for answer in answers]
        return [answer[0] for answer in answers]

    def launch(self) -> Read:
        """Return each row's further tokens."""
        return Read(list(self._answers))

    def leave(self, row: int) -> None:
        """Free a row: the last row gets its number."""
        last = self._answers.pop()
        if row < len(self._answers):
            self._answers[row] = last
