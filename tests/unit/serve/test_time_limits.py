"""Requests end at their time limit, whatever the engine or the client does; the engine of this service hangs."""

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from components.serve.adapters.sources import fetched
from components.serve.assembly import assembled, start, stop
from components.serve.batching.page_job import PageJob
from components.serve.config import ServeConfig
from components.serve.documents.opening import PageFile
from components.serve.engines.lane import Lane
from components.serve.http import boundary
from components.serve.http.app import application
from components.serve.http.authentication import access_of
from components.serve.http.connections import ABORT
from components.serve.http.service import Service
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import running_service

BASE = "tiny-base"
PAGE = as_file(drawn_page("x"))
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PAGE).decode()}"}}
CHAT = {"messages": [{"role": "user", "content": [PICTURE]}]}


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in this process; the first step with a page hangs until the tests are over."""
    over = threading.Event()

    def turn(lane: Lane, activate: object) -> bool:
        if lane.pages():
            over.wait()
        return False

    config = ServeConfig(model=BASE, request_timeout_seconds=1, document_processes=1)
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "turn", turn)
        files = fetched(BASE, folder)
        service = assembled(config, access_of(config), folder, files)
        start(service, files)
        try:
            service.versions.ready.result()
            service.documents.opened(PageFile(PAGE, 10**6), time.monotonic() + 3600).result()
            yield service
        finally:
            over.set()
            stop(service)


def asked(service: Service, method: str, path: str, **content: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, timeout=None, **content)

    return asyncio.run(ask())


def test_liveness_fails_when_a_step_does_not_end(hanging: Service) -> None:
    assert asked(hanging, "GET", "/health/live").status_code == 200
    page = PageJob(drawn_page("x"), None, BASE, "client", 4, time.monotonic() + 3600)
    hanging.queue.put([page])
    while not hanging.engine.step_seconds():
        time.sleep(0.01)
    usual = hanging.config
    assert asked(hanging, "GET", "/health/live").status_code == 200, "a step may take its time"
    hanging.config = usual.model_copy(update={"max_step_seconds": 1e-9})
    while (answer := asked(hanging, "GET", "/health/live")).status_code == 200:
        time.sleep(0.01)
    hanging.config = usual
    assert answer.status_code == 503 and answer.json()["status"] == "a step does not end"


def test_requests_end_although_the_engine_hangs(hanging: Service) -> None:
    read = asked(hanging, "POST", "/v1/ocr", files={"file": PAGE})
    assert (read.status_code, read.json()["error"]["code"]) == (504, "timeout")
    whole = asked(hanging, "POST", "/v1/chat/completions", json=CHAT)
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
    stream = asked(hanging, "POST", "/v1/chat/completions", json=CHAT | {"stream": True})
    assert '"code": "timeout"' in stream.text and "[DONE]" not in stream.text
    assert len(hanging.queue) == 0


def test_a_client_that_does_not_read_its_stream_loses_the_connection(
    hanging: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "_SECONDS_TO_READ", 0.01)
    aborted: list[bool] = []
    body = httpx.Request("POST", "http://x", json=CHAT | {"stream": True}).content
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return coming.pop() if coming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # its buffers are full

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {ABORT: lambda: aborted.append(True)},
    }
    asyncio.run(application(hanging)(scope, receive, send))
    assert aborted == [True]
    assert 'reason="client_does_not_read"} 1.0' in hanging.meter.text().decode()
    hanging.catalog.retire(BASE)
    assert hanging.catalog.wait_for_last_request(BASE, 0.0), "its version is free"
    hanging.catalog.take_back(BASE)


@pytest.mark.slow
def test_a_request_that_does_not_come_is_refused_when_its_time_is_over(tmp_path: Path) -> None:
    with running_service(tmp_path, "--request_timeout_seconds", "1") as service:
        address = urlsplit(service.url)
        head = f"POST /v1/ocr HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        for length in ("Content-Length: 1000\r\n\r\n-", "Transfer-Encoding: chunked\r\n\r\n1\r\n-\r\n"):
            with socket.create_connection((address.hostname or "", address.port or 0)) as client:
                client.sendall((head + length).encode())
                answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
            assert answer.startswith("HTTP/1.1 408") and '"code":"upload_timeout"' in answer
        assert "Traceback" not in service.log.read_text()
