"""What a client of ``POST /v1/chat/completions`` sends, and the pages in it."""

import base64
import binascii
import re
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from components.serve.http.errors import ApiError

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)


class _ImageUrl(BaseModel):
    url: str


class _Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _ImageUrl | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part]


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields that change the answer; others that OpenAI's API knows are ignored if they ask for nothing else."""

    model: str | None = None
    messages: list[_Message]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    n: int | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def longest(self) -> int | None:
        """The longest answer in tokens that the client wants; None: the service's."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def parsed_chat(body: bytes) -> tuple[ChatRequest, str | None, list[bytes]]:
    """Return a request, its instruction (None: the model's own prompt), and its pictures' bytes.

    Raises:
        ApiError: it is not valid, asks for what this service does not do, or names a picture by an address.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ApiError(400, first["msg"], param=".".join(map(str, first["loc"])) or None) from error
    _refuse_other_wishes(request)
    if len(request.messages) != 1 or request.messages[0].role != "user":
        raise ApiError(400, "the model reads pages: send one message of the role 'user'", param="messages")
    content = request.messages[0].content
    if isinstance(content, str):
        raise ApiError(400, "there is no picture: add a part of type 'image_url'", param="messages")
    texts = [part.text for part in content if part.type == "text"]
    pictures = [_bytes_of(part) for part in content if part.type == "image_url"]
    if not pictures:
        raise ApiError(400, "there is no picture: add a part of type 'image_url'", param="messages")
    return request, "\n".join(texts).strip() or None, pictures


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
    refused = {
        "temperature": bool(request.temperature),
        "n": request.n not in (None, 1),
        "tools": bool(request.tools),
        "response_format": (request.response_format or {}).get("type", "text") != "text",
    }
    for name, wanted in refused.items():
        if wanted:
            message = "decoding is greedy, and the answer is the page's text: leave this out"
            raise ApiError(400, message, code="unsupported_parameter", param=name)
