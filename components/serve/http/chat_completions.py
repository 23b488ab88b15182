"""``POST /v1/chat/completions`` as OpenAI's clients call it: pictures in, their text out, at once or as a stream."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from starlette.types import Send

from components.serve.batching.page_job import PageReading, RequestTimeoutError
from components.serve.http.chat_request import parsed_chat
from components.serve.http.ocr import decoding_as_json, reading_as_json
from components.serve.http.service import Service, Wish, all_readings, as_api_error
from components.serve.observability.request_spans import request_part

_BETWEEN_PAGES = "\n\n"


def chat_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        client = service.access.client_of(request)
        chat, instruction, pictures = await asyncio.to_thread(parsed_chat, await _body(request))
        wish = Wish(client, chat.model, instruction, chat.longest)
        as_stream, with_usage = chat.stream, chat.wants_usage
        del chat  # it has the pictures, too
        with request_part("open the uploads"):
            pages = [page for file in await service.opened(request, pictures) for page in file]
        if as_stream:
            events = _stream(service, request, pages, wish, with_usage)
            head = await anext(events)  # what is refused is refused before the answer begins
            return _EventStream(head, events)
        async with service.reading(request, pages, wish) as readings:  # as long as the answer asks for the version
            found = await all_readings(request, readings)
            return JSONResponse(_completion(service, request, found, wish))

    return router


async def _body(request: Request) -> bytes:
    """Return the body; ``request.body`` would keep it as long as the request."""
    return b"".join([piece async for piece in request.stream()])


def _completion(service: Service, request: Request, found: list[PageReading], wish: Wish) -> dict[str, Any]:
    message = {"role": "assistant", "content": _BETWEEN_PAGES.join(reading.text for reading in found)}
    return {
        "id": f"chatcmpl-{request.state.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.state.model,
        "choices": [{"index": 0, "message": message, "finish_reason": _finish_reason(found), "logprobs": None}],
        "usage": _usage(found),
        "deepsynth": _more(service, found, wish),
    }


async def _stream(
    service: Service, request: Request, pages: list[Image.Image], wish: Wish, with_usage: bool
) -> AsyncGenerator[str, None]:
    """Yield server-sent events; the pages' texts come in their order, although they are read at the same time."""
    queues: list[asyncio.Queue[str | None]] = [asyncio.Queue() for _ in pages]
    async with service.reading(
        request, pages, wish, on_text=lambda number, text: queues[number].put_nowait(text)
    ) as readings:
        head = {"id": f"chatcmpl-{request.state.request_id}", "created": int(time.time())}
        head |= {"object": "chat.completion.chunk", "model": request.state.model}
        for queue, reading in zip(queues, readings, strict=True):
            reading.add_done_callback(partial(_ended, queue))
        yield _event({**head, "choices": [_choice({"role": "assistant", "content": ""})]})
        try:
            for number, queue in enumerate(queues):
                if number:
                    yield _event({**head, "choices": [_choice({"content": _BETWEEN_PAGES})]})
                while (text := await _next(queue, request.state.deadline)) is not None:
                    yield _event({**head, "choices": [_choice({"content": text})]})
                readings[number].result()
        except (asyncio.CancelledError, GeneratorExit):
            request.state.failure = "client_closed_request"
            raise
        except Exception as error:
            answer = as_api_error(error)
            request.state.failure = answer.reason
            yield _event(answer.body())
            return
        found = [reading.result() for reading in readings]
        last = {**head, "choices": [_choice({}, _finish_reason(found))]}
        yield _event({**last, "deepsynth": _more(service, found, wish)})
        if with_usage:
            yield _event({**head, "choices": [], "usage": _usage(found)})
        yield "data: [DONE]\n\n"


def _ended(texts: "asyncio.Queue[str | None]", reading: "asyncio.Future[PageReading]") -> None:
    if not reading.cancelled():
        reading.exception()  # asyncio would log an error, with its text, that nobody looked at
    texts.put_nowait(None)


async def _next(texts: "asyncio.Queue[str | None]", deadline: float) -> str | None:
    """Return the next piece of a text; None at its end.

    Raises:
        RequestTimeoutError: the request's time is over, whether its client or the engine was slow.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise RequestTimeoutError
    try:
        async with asyncio.timeout(left):
            return await texts.get()
    except TimeoutError as error:
        raise RequestTimeoutError from error


class _EventStream(StreamingResponse):
    """Server-sent events; when it ends, however it does, so does what makes them, and gives its version free."""

    def __init__(self, head: str, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._head, self._events = head, events

    async def stream_response(self, send: Send) -> None:
        """Send the head, then the events."""
        self.body_iterator = _chained(self._head, self._events)
        try:
            await super().stream_response(send)
        finally:
            await self._events.aclose()


async def _chained(head: str, events: AsyncGenerator[str, None]) -> AsyncGenerator[str]:
    yield head
    async for event in events:
        yield event


def _event(content: dict[str, Any]) -> str:
    # ASCII: clients that read lines of text, as httpx and requests do, also end one at U+2028, U+2029 and U+0085.
    return f"data: {json.dumps(content)}\n\n"


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}


def _finish_reason(found: list[PageReading]) -> str:
    return "length" if any(reading.truncated for reading in found) else "stop"


def _usage(found: list[PageReading]) -> dict[str, int]:
    prompt, answer = (sum(getattr(one, name) for one in found) for name in ("prompt_tokens", "tokens"))
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _more(service: Service, found: list[PageReading], wish: Wish) -> dict[str, Any]:
    """Return what OpenAI's answer has no field for."""
    pages = [reading_as_json(reading, service.calibrations(reading, wish)) for reading in found]
    without_text = [{name: page[name] for name in page if name not in ("text", "lines")} for page in pages]
    return {"decoding": decoding_as_json(service.catalog.reading(found[0].model)), "pages": without_text}
