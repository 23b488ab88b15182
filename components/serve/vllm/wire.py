"""What vLLM's server sends, as far as this service reads it (vllm/entrypoints/openai and serve/lora of vLLM 0.32)."""

from pydantic import BaseModel, Field


class _Candidate(BaseModel):
    token: str
    logprob: float


class TokenLogprob(_Candidate):
    """A token that was written, its log-probability (natural logarithm), and the most likely tokens at its place."""

    top_logprobs: list[_Candidate] = Field(default_factory=list)


class _Logprobs(BaseModel):
    content: list[TokenLogprob] | None = None


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta = Field(default_factory=_Delta)
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Error(BaseModel):
    message: str
    code: int = 500


class Chunk(BaseModel):
    """An event of a streamed answer; it is an error if ``error`` is given."""

    choices: list[_Choice] = Field(default_factory=list)
    usage: _Usage | None = None
    prompt_text: str | None = None
    error: _Error | None = None


class ErrorAnswer(BaseModel):
    """The body of a request that vLLM refuses."""

    error: _Error


class ModelCard(BaseModel):
    """A model that vLLM reads with.

    Attributes:
        id: the name in requests.
        root: the folder or hub id of its files.
        parent: the base of an adapter; None for the base itself.
    """

    id: str
    root: str | None = None
    parent: str | None = None


class ModelList(BaseModel):
    """The answer of ``GET /v1/models``."""

    data: list[ModelCard]
