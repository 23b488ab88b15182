"""No sequence of tokens twice within the last tokens of an answer, as DeepSeek's published inference decodes.

A model that loops writes the same tokens again and again. Before each token, those that would complete a sequence of
``size`` tokens that stands in the last ``window`` tokens already are ruled out; greedy search then takes the next best.
The window is counted as in ``NoRepeatNGramLogitsProcessor`` of DeepSeek-OCR (process/ngram_norepeat.py). Copied into
every package, so it needs torch and transformers alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor


@dataclass(frozen=True)
class NoRepeatNgrams:
    """The rule.

    Attributes:
        size: tokens of a sequence that may not occur twice, at least 2.
        window: how many of the answer's last tokens are looked at; None for all.
        allowed: tokens that are never ruled out, such as a table's cell tags.
    """

    size: int
    window: int | None = None
    allowed: tuple[int, ...] = ()

    def scores(self, scores: torch.Tensor, answers: torch.Tensor, written: torch.Tensor | int) -> torch.Tensor:
        """Return the next tokens' scores, (pages, vocabulary), with -inf for the tokens that are ruled out.

        ``answers`` has shape (pages, tokens), of which the first ``written`` are written; the prompt is not in it.
        ``written`` is a number, or a tensor of shape (pages, 1) if the pages have not begun together. The work is the
        same for each step and asks nothing from the device, so that a CUDA graph can record it.
        """
        length = min(self.window or answers.shape[1], answers.shape[1])
        if length < self.size:
            return scores
        places = torch.arange(length, device=scores.device) + (written - length)
        recent = answers.gather(1, places.clamp(min=0).expand(len(answers), -1))
        sequences = recent.unfold(1, self.size, 1)  # (pages, starts, size)
        ending = recent[:, length - self.size + 1 :]  # the tokens that the next one would complete
        repeated = (sequences[..., :-1] == ending[:, None]).all(dim=-1) & (places[..., : sequences.shape[1]] >= 0)
        following = sequences[..., -1]
        for token in self.allowed:
            repeated &= following != token
        ceiling = torch.where(repeated, -torch.inf, torch.inf).to(scores.dtype)
        return scores.scatter_reduce(1, following, ceiling, "amin")


class NoRepeatNgramsProcessor(LogitsProcessor):
    """The rule for transformers' ``generate``; ``prompt_tokens`` is the prompt's length."""

    def __init__(self, rule: NoRepeatNgrams, prompt_tokens: int) -> None:
        self._rule = rule
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores of the next token."""
        answers = input_ids[:, self._prompt_tokens :]
        return self._rule.scores(scores, answers, answers.shape[1])
