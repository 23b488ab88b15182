"""How certain a model was of the tokens that greedy decoding chose."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


def best_logprobs(scores: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (natural logarithm) of each row's most likely token; shape (rows,), float32."""
    exact = scores.float()
    return exact.amax(dim=-1) - exact.logsumexp(dim=-1)


class TokenConfidences(LogitsProcessor):
    """Keeps the log-probability of each step's most likely token; the last processor of ``generate``."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Keep a step's log-probabilities, and return the scores as they are."""
        self.steps.append(best_logprobs(scores))
        return scores

    def by_row(self) -> list[list[float]]:
        """Return each row's log-probabilities, one per step."""
        found: list[list[float]] = torch.stack(list(self.steps), dim=1).tolist()
        return found


def mean_and_lowest(logprobs: Sequence[float]) -> tuple[float, float] | None:
    """Return both over an answer's tokens, its end token included; None for an answer without tokens."""
    return (sum(logprobs) / len(logprobs), min(logprobs)) if logprobs else None
