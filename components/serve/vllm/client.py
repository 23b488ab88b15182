"""Requests to a vLLM server."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from components.serve.vllm.wire import Chunk, ErrorAnswer, ModelCard, ModelList

_SECONDS_TO_CONNECT = 10.0
_SECONDS_FOR_A_LOOK = 10.0
_SECONDS_TO_LOAD = 600.0
_DATA = b"data:"


class VllmRefusedError(Exception):
    """The server does not do what it was asked.

    Args:
        status: its HTTP status, or the code in a stream's error.
        message: what it says; for the client or the administrator who asked, never for a log.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class VllmUnreachableError(Exception):
    """The server does not answer, ends an answer in the middle, or sends what vLLM does not send."""


class VllmClient:
    """A vLLM server's address; use it in one asyncio loop.

    Args:
        address: such as ``http://127.0.0.1:8001``.
        token: its API key; None if it has none.
    """

    def __init__(self, address: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=address,
            headers=headers,
            timeout=httpx.Timeout(None, connect=_SECONDS_TO_CONNECT),  # a page's own deadline ends its reading
            limits=httpx.Limits(max_connections=None),  # the service bounds how many pages are read at once
            trust_env=False,  # pages go to this address, and to no proxy
            verify=ssl.create_default_context(),  # SSL_CERT_FILE may name an authority
        )

    async def close(self) -> None:
        """Close all connections; the server ends what they asked for."""
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        """Return whether the server can read pages."""
        with suppress(httpx.HTTPError):
            return (await self._http.get("/health", timeout=_SECONDS_FOR_A_LOOK)).status_code == 200
        return False

    async def models(self) -> list[ModelCard]:
        """Return the base and the adapters that are loaded.

        Raises:
            VllmUnreachableError, VllmRefusedError: see there; a wrong token is refused with 401.
        """
        answer = await self._asked("GET", "/v1/models", None, _SECONDS_FOR_A_LOOK)
        try:
            return ModelList.model_validate_json(answer.content).data
        except ValidationError as error:
            raise VllmUnreachableError("its /v1/models is not vLLM's") from error

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter from a folder that the server can read.

        Raises:
            VllmUnreachableError, VllmRefusedError: see there.
        """
        wish = {"lora_name": name, "lora_path": str(folder)}
        await self._asked("POST", "/v1/load_lora_adapter", wish, _SECONDS_TO_LOAD)

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter.

        Raises:
            VllmUnreachableError, VllmRefusedError: see there.
        """
        await self._asked("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _SECONDS_TO_LOAD)

    async def completion(
        self, wish: dict[str, Any], headers: dict[str, str] | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the events of ``POST /v1/chat/completions`` with ``stream``; closing the iterator ends it in vLLM too.

        Args:
            wish: the body.
            headers: of the request, such as those of its trace.

        Raises:
            VllmUnreachableError, VllmRefusedError: see there.
        """
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=wish, headers=headers) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread())
                async for line in _lines(answer.aiter_bytes()):
                    if not line.startswith(_DATA):
                        continue
                    content = line.removeprefix(_DATA).strip()
                    if content == b"[DONE]":
                        return
                    chunk = Chunk.model_validate_json(content)
                    if chunk.error is not None:
                        raise VllmRefusedError(chunk.error.code, chunk.error.message)
                    yield chunk
        except httpx.HTTPError as error:
            raise VllmUnreachableError(type(error).__name__) from error
        except ValidationError as error:
            raise VllmUnreachableError("an event of its answer is not vLLM's") from error
        raise VllmUnreachableError("its answer has no end")

    async def _asked(self, method: str, path: str, wish: dict[str, Any] | None, seconds: float) -> httpx.Response:
        try:
            async with asyncio.timeout(seconds):
                answer = await self._http.request(method, path, json=wish)
        except (httpx.HTTPError, TimeoutError) as error:
            raise VllmUnreachableError(type(error).__name__) from error
        if answer.status_code != 200:
            raise _refusal(answer.status_code, answer.content)
        return answer


async def _lines(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of server-sent events, which a line feed ends.

    httpx's ``aiter_lines`` also ends them at U+2028, U+2029 and U+0085, which vLLM sends inside an event's JSON.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _refusal(status: int, body: bytes) -> VllmRefusedError:
    try:
        return VllmRefusedError(status, ErrorAnswer.model_validate_json(body).error.message)
    except ValidationError:  # vLLM's own 401 and FastAPI's 404 have another shape
        return VllmRefusedError(status, f"HTTP status {status}")
