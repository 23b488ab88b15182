"""An answer while it is written, and the reading that it becomes: text by line, confidence, loops, truncation."""

import time
from collections.abc import Callable, Sequence

from components.serve.batching.page_job import PageJob, PageReading, Phase
from components.serve.engines.text_stream import TextStream
from components.shared.reading.line_readings import line_readings
from components.shared.reading.transcriber import Transcriber
from components.shared.scoring.repetition import repeated_unit


class Answer:
    """The tokens of one page so far.

    Args:
        job: the page.
        transcriber: knows the end tokens, and the text of tokens.
        prompt_tokens: of the prompt, picture included.
        seconds: of the phases before decoding.
        began: ``time.monotonic()`` when decoding began.
        send: called with this answer and each new part of its tokens, if somebody follows it.
    """

    def __init__(
        self,
        job: PageJob,
        transcriber: Transcriber,
        prompt_tokens: int,
        seconds: dict[str, float],
        began: float,
        send: "Callable[[Answer, list[int]], None]",
    ) -> None:
        self.job, self.transcriber, self._send = job, transcriber, send
        self.stream = TextStream(transcriber.text_of, transcriber.rewritten)
        self.prompt_tokens, self.seconds, self.began = prompt_tokens, seconds, began
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.truncated = self.finished = False

    def extend(self, steps: Sequence[tuple[int, float]]) -> int:
        """Add tokens with their log-probabilities, but none after the answer's end; return how many were added."""
        before = len(self.tokens)
        for token, logprob in steps:
            if self.finished:
                break
            self.tokens.append(token)
            self.logprobs.append(logprob)
            ended = token in self.transcriber.end_tokens
            self.truncated = not ended and len(self.tokens) >= self.job.max_new_tokens
            self.finished = ended or self.truncated
        if self.job.on_text is not None:
            self._send(self, self.written()[before:])
        return len(self.tokens) - before

    def written(self) -> list[int]:
        """Return the tokens without the end token."""
        return self.tokens[:-1] if self.finished and not self.truncated else self.tokens


def page_reading(answer: Answer, model: str) -> PageReading:
    """Return what a finished answer says."""
    written = answer.written()
    text = answer.transcriber.text_of(written)
    ended = time.monotonic()
    answer.job.phases.append(Phase("decode", answer.began, ended))
    return PageReading(
        model=model,
        text=text,
        truncated=answer.truncated,
        loop=repeated_unit(text) is not None,
        prompt_tokens=answer.prompt_tokens,
        tokens=len(answer.tokens),
        mean_logprob=sum(answer.logprobs) / len(answer.logprobs),
        min_logprob=min(answer.logprobs),
        lines=line_readings(text, map(answer.transcriber.text_of_token, written), answer.logprobs),
        seconds={**answer.seconds, "decode": ended - answer.began},
    )
