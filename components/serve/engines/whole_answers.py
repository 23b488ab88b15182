"""Decoding for models whose steps cannot be shared: transformers' ``generate`` reads a group of pages to its end.

Pages that come meanwhile wait. It has the methods of ``RunningRows``, so the engine does not care which one it has.
"""

from typing import Any

import torch
from transformers import BatchFeature, LogitsProcessor


class _Confidences(LogitsProcessor):
    """Keeps the log-probability of each step's most likely token."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append((scores.amax(dim=-1) - scores.float().logsumexp(dim=-1)).float())
        return scores


class WholeAnswers:
    """Groups of pages; all tokens of a group's rows come with the first call of ``step`` after it entered."""

    def __init__(self, model: Any, most_rows: int, end_tokens: list[int], pad_token: int) -> None:
        self._model = model
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
        confidences = _Confidences()
        output = self._model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=self._pad_token,
            logits_processor=[confidences],
        )
        tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
        logprobs = torch.stack(confidences.steps, dim=1).tolist()
        answers = [list(zip(*row, strict=True)) for row in zip(tokens, logprobs, strict=True)]
        self._answers += [answer[1:] for answer in answers]
        return [answer[0] for answer in answers]

    def step(self) -> list[list[tuple[int, float]]]:
        """Return each row's further tokens with their log-probabilities."""
        return self._answers

    def leave(self, row: int) -> None:
        """Free a row: the last row gets its number."""
        last = self._answers.pop()
        if row < len(self._answers):
            self._answers[row] = last
