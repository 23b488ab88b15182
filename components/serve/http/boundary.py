"""The outermost layer of the service: request ids, limits of size and time, one log line and one count per request."""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serve.batching.held_memory import Holding, MemoryFullError
from components.serve.http.connections import ABORT
from components.serve.http.errors import ApiError
from components.serve.http.service import Service
from components.serve.observability.request_spans import describe_answer, request_span
from components.shared.telemetry.json_logs import set_task_log_context

logger = logging.getLogger(__name__)

_SECONDS_TO_DISCARD = 5.0
_SECONDS_TO_READ = 5.0  # that a client has for a piece of its answer, even if its request's time is over
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_ROUTES = ("/v1/chat/completions", "/v1/ocr", "/v1/models", "/metrics", "/health/", "/admin/")
_OF_MACHINES = ("/metrics", "/health/")  # they ask every few seconds
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _ClientDoesNotReadError(Exception):
    """The client takes nothing of its answer any more."""


class Boundary:
    """Wraps the application; it knows a request's size, route, status and time, and nothing of its content."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        given = _header(scope, b"x-request-id")
        state = scope.setdefault("state", {})
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state["deadline"] = deadline = time.monotonic() + self._service.config.request_timeout_seconds
        set_task_log_context(request_id=state["request_id"])

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", state["request_id"].encode())]
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), _SECONDS_TO_READ)):
                    await send(message)
            except TimeoutError as error:
                raise _ClientDoesNotReadError from error

        route = _route(scope["path"])
        if route in _OF_MACHINES:
            with self._measured(route, state, lambda: status):
                await self._answer(scope, receive, send_with_id)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        with request_span(method, route, scope["headers"]) as opened:
            try:
                with self._measured(route, state, lambda: status):
                    await self._answer(scope, receive, send_with_id)
            finally:
                describe_answer(opened, status, state)
                _log(method, route, status, state)

    @contextmanager
    def _measured(self, route: str, state: dict[str, Any], status: Callable[[], int]) -> Iterator[None]:
        """Count the request with its status and time, and its failure with the reason."""
        started = time.monotonic()
        try:
            yield
        except _ClientDoesNotReadError:
            state["failure"] = "client_does_not_read"
        except Exception:
            state.setdefault("failure", "internal")
            raise
        finally:
            state["seconds"] = time.monotonic() - started
            self._service.meter.request(route, status(), state["seconds"])
            if reason := state.get("failure"):
                self._service.meter.failed(reason)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        limit, length = service.config.max_request_bytes, _header(scope, b"content-length")
        size = int(length[:19]) if length.isdecimal() else 0
        holding = service.memory.of_request(service.access.holder_of(Request(scope)))
        scope["state"]["holding"] = holding
        try:
            if size > limit:
                await self._refuse(_too_large(limit), scope, receive, send)
                return
            try:
                holding.take_bytes(size)
            except MemoryFullError:
                await self._refuse(service.memory_full(), scope, receive, send)
                return
            await self._app(scope, self._receiving(scope, receive, holding, known=size), send)
        except _ClientDoesNotReadError:
            scope["state"][ABORT]()  # to close it would mean to wait until the client has read
            await asyncio.sleep(0)  # in which the connection takes note of it
            raise
        finally:
            holding.end()

    async def _refuse(self, refusal: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["failure"] = refusal.reason
        if not _header(scope, b"expect"):  # with it, the client waits for leave to send
            await _discard(receive, self._service.config.max_request_bytes)
        await _send_error(send, refusal)

    def _receiving(self, scope: Scope, receive: Receive, holding: Holding, known: int) -> Receive:
        """Return ``receive`` with bounds of time and size; ``known`` bytes are counted already."""
        config, deadline = self._service.config, scope["state"]["deadline"]
        limit, taken, whole = config.max_request_bytes, 0, False

        async def receive_bounded() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                problem = f"the request did not come within {config.request_timeout_seconds:g} s"
                closed = {"Connection": "close"}
                raise ApiError(408, problem, code="upload_timeout", headers=closed) from error
            if message["type"] == "http.disconnect":
                raise ApiError(499, "the client closed the connection", code="client_closed_request")
            before, taken = max(taken, known), taken + len(message.get("body", b""))
            whole = not message.get("more_body")
            try:
                if taken > limit:
                    raise _too_large(limit)
                holding.take_bytes(max(0, taken - before))
            except (ApiError, MemoryFullError) as error:
                if not whole:
                    await _discard(receive, limit)
                raise error if isinstance(error, ApiError) else self._service.memory_full() from error
            return message

        return receive_bounded


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"a request has at most {limit} bytes", code="request_too_large")


def _log(method: str, route: str, status: int, state: dict[str, Any]) -> None:
    fields = {
        "request_id": state["request_id"],
        "method": method,
        "route": route,
        "status": status,
        "seconds": round(state["seconds"], 4),
        "pages": state.get("pages"),
        "model": state.get("model"),
        "failure": state.get("failure"),
    }
    known = {name: value for name, value in fields.items() if value is not None}
    line = " ".join(f"{name}={value}" for name, value in known.items())
    logger.info("request %s", line, extra=known)


def _route(path: str) -> str:
    """Return the known part of a path: an unknown one may hold anything, and makes a new series of each metric."""
    return next((route for route in _ROUTES if path.startswith(route)), "other")


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _discard(receive: Receive, most: int) -> None:
    """Read what a refused client still sends, within bounds.

    A connection that is closed with unread bytes is reset, and its client may see no answer; 15 of 78 saw none.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS_TO_DISCARD):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _send_error(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
