"""An answer of vLLM while it is streamed, and the reading that it becomes."""

import time

from components.serve.batching.page_job import PageJob, PageReading, Phase
from components.serve.vllm.client import VllmUnreachableError
from components.serve.vllm.wire import Chunk, TokenLogprob
from components.shared.reading.line_readings import line_readings
from components.shared.scoring.repetition import repeated_unit


class StreamedAnswer:
    """The answer to one page so far.

    Args:
        job: the page; who follows it gets the text as it comes.
        seconds: of the phases before the request: queue and prepare.
    """

    def __init__(self, job: PageJob, seconds: dict[str, float]) -> None:
        self._job, self._seconds = job, seconds
        self._asked = self._first = time.monotonic()
        self._tokens: list[TokenLogprob] = []
        self._text = ""
        self._finish_reason: str | None = None
        self._prompt_tokens = 0

    def extend(self, chunk: Chunk) -> int:
        """Add an event; return how many tokens it has."""
        before = len(self._tokens)
        if chunk.usage is not None:
            self._prompt_tokens = chunk.usage.prompt_tokens
        for choice in chunk.choices:
            if choice.logprobs is not None and choice.logprobs.content:
                if not self._tokens:
                    self._first = time.monotonic()
                self._tokens += choice.logprobs.content
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.delta.content:
                self._text += choice.delta.content
                if self._job.on_text is not None:
                    self._job.on_text(choice.delta.content)
        return len(self._tokens) - before

    def reading(self, model: str) -> PageReading:
        """Return what the finished answer says.

        Raises:
            VllmUnreachableError: vLLM has not finished it, or gave no log-probabilities.
        """
        if self._finish_reason not in ("stop", "length") or not self._tokens:
            raise VllmUnreachableError(f"it ended an answer with {self._finish_reason!r}")
        truncated = self._finish_reason == "length"
        logprobs = [token.logprob for token in self._tokens]
        written = self._tokens if truncated else self._tokens[:-1]  # the last one is the end token
        ended = time.monotonic()
        phases = (Phase("prefill", self._asked, self._first), Phase("decode", self._first, ended))
        self._job.phases.extend(phases)
        return PageReading(
            model=model,
            text=self._text,
            truncated=truncated,
            loop=repeated_unit(self._text) is not None,
            prompt_tokens=self._prompt_tokens,
            tokens=len(self._tokens),
            mean_logprob=sum(logprobs) / len(logprobs),
            min_logprob=min(logprobs),
            lines=line_readings(self._text, (token.token for token in written), logprobs),
            seconds=self._seconds | {phase.name: phase.ended - phase.began for phase in phases},
        )
