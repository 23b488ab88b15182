"""What a client of ``POST /v1/chat/completions`` sends, and the pages in it."""

import base64
import binascii
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.serve.http.errors import ApiError

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)

_BEFORE = ("system", "developer")  # their text stands before the user's


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _ImageUrl | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part]

    @property
    def parts(self) -> list[_Part]:
        """The content; a text alone is one part."""
        return [_Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class _StreamOptions(BaseModel):
    include_usage: bool = False


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("temperature", "frequency_penalty", "presence_penalty", "min_tokens"), (None, 0)),
    **dict.fromkeys(("n", "best_of", "repetition_penalty", "length_penalty"), (None, 1)),
    **dict.fromkeys(("tools", "functions", "stop", "stop_token_ids", "bad_words"), (None, [], "")),
    **dict.fromkeys(("logprobs", "ignore_eos", "use_beam_search"), (None, False)),
    **dict.fromkeys(("top_logprobs", "prompt_logprobs"), (None, 0)),
    **dict.fromkeys(("audio", "web_search_options", "structured_outputs", "chat_template"), (None,)),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), (None,)),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "response_format": (None, {}, {"type": "text"}),
}
"""Fields of OpenAI's API, and of vLLM's beside them, that would change the answer, with the values that change nothing.
``seed``, ``top_p`` and ``top_k`` change nothing: decoding is greedy."""
_CONFIDENCE = ("logprobs", "top_logprobs", "prompt_logprobs")


class ChatRequest(BaseModel):
    """The fields that change the answer; others that OpenAI's API knows are ignored if they ask for nothing else."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[_Message]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None

    @property
    def longest(self) -> int | None:
        """The longest answer of a page in tokens that the client wants; None: the version's."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def parsed_chat(body: bytes) -> tuple[ChatRequest, str | None, list[bytes]]:
    """Return a request, its instruction (None: the model's own prompt), and its pictures' bytes.

    The instruction is the messages' text: those of the roles ``system`` and ``developer`` first, then the user's.

    Raises:
        ApiError: it is not valid, asks for what this service does not do, or names a picture by an address.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ApiError(400, first["msg"], param=".".join(map(str, first["loc"])) or None) from error
    _refuse_other_wishes(request)
    before = [message for message in request.messages if message.role in _BEFORE]
    own = [message for message in request.messages if message.role not in _BEFORE]
    if [message.role for message in own] != ["user"]:
        problem = "the model reads pages: send one message of the role 'user', and system messages beside it"
        raise ApiError(400, problem, param="messages")
    if any(part.type != "text" for message in before for part in message.parts):
        raise ApiError(400, "pictures are sent in the message of the role 'user'", param="messages")
    texts = [part.text.strip() for message in before + own for part in message.parts if part.type == "text"]
    pictures = [_bytes_of(part) for part in own[0].parts if part.type == "image_url"]
    if not pictures:
        raise ApiError(400, "there is no picture: add a part of type 'image_url'", param="messages")
    return request, "\n".join(filter(None, texts)) or None, pictures


def _bytes_of(part: _Part) -> bytes:
    url = part.image_url.url if part.image_url else ""
    head = _DATA_URL.match(url[:200])
    if head is None:
        raise ApiError(
            400,
            "pictures are sent in the request, as data:image/png;base64,…; this service fetches no address",
            code="remote_image_refused",
            param="messages",
        )
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "the picture is not valid base64", param="messages") from error


def _refuse_other_wishes(request: ChatRequest) -> None:
    for name, value in (request.model_extra or {}).items():
        if value in _NEUTRAL.get(name, (value,)):
            continue
        message = "decoding is greedy, and the answer is the page's text: leave this out"
        if name in _CONFIDENCE:
            message = "the confidence of each page is in the answer's field 'deepsynth': leave this out"
        raise ApiError(400, message, code="unsupported_parameter", param=name)
