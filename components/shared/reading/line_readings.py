"""The confidence of each line of an answer, from its tokens' log-probabilities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class LineReading:
    """One line of a page: its text, and the mean and lowest log-probability of its tokens (natural logarithm)."""

    text: str
    mean_logprob: float
    min_logprob: float


def line_readings(text: str, token_texts: Iterable[str], logprobs: Sequence[float]) -> tuple[LineReading, ...]:
    """Return the lines of ``text`` that have tokens; a token belongs to the line in which it begins.

    Args:
        text: the answer.
        token_texts: the text of each of its tokens, without the end token.
        logprobs: at least as many log-probabilities (natural logarithm).
    """
    numbers: list[int] = []
    line = 0
    for token_text in token_texts:
        numbers.append(line)
        line += token_text.count("\n")
    texts = text.split("\n")
    readings = []
    for number, members in groupby(zip(numbers, logprobs, strict=False), key=lambda pair: pair[0]):
        found = [logprob for _, logprob in members]
        if number < len(texts) and texts[number]:
            readings.append(LineReading(texts[number], sum(found) / len(found), min(found)))
    return tuple(readings)
