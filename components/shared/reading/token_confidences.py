"""How certain a model was of the tokens that greedy decoding chose."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


def chosen_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (natural logarithm) of each row's token; shape (rows,), float32."""
    exact = logits.float()
    return exact.gather(-1, tokens[:, None])[:, 0] - exact.logsumexp(dim=-1)


class TokenConfidences(LogitsProcessor):
    """Keeps the log-probability of each step's token; ``generate`` shows which one it chose with the next step.

    It stands before the processors that rule tokens out, so that the log-probabilities are the model's own.
    """

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Keep the last step's log-probabilities, and return the scores as they are."""
        self._keep(input_ids)
        self._last = scores
        return scores

    def take(self, steps: torch.Tensor) -> None:
        """Take log-probabilities that recorded steps have kept; shape (rows, steps)."""
        self._steps, self._last = list(steps.unbind(dim=1)), None

    def of_answers(self, output: torch.Tensor) -> list[list[float]]:
        """Return each row's log-probabilities, one per step; ``output`` is what ``generate`` returned."""
        self._keep(output)
        found: list[list[float]] = torch.stack(self._steps, dim=1).tolist()
        return found

    def _keep(self, written: torch.Tensor) -> None:
        if self._last is not None:
            self._steps.append(chosen_logprobs(self._last, written[:, -1]))
            self._last = None


def mean_and_lowest(logprobs: Sequence[float]) -> tuple[float, float] | None:
    """Return both over an answer's tokens, its end token included; None for an answer without tokens."""
    return (sum(logprobs) / len(logprobs), min(logprobs)) if logprobs else None
