"""Requests of a version that is unloaded the moment that it may be: no engine runs here."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from components.serve.adapters.sources import fetched
from components.serve.assembly import assembled
from components.serve.batching.page_job import PageReading
from components.serve.config import ServeConfig
from components.serve.http.app import application
from components.serve.http.authentication import access_of
from components.serve.http.service import Service
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.evaluated_package import plain_reading
from tests.unit.serve.test_service import picture_message


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose version ``old`` is gone as soon as its last request lets it go."""
    config = ServeConfig(document_processes=1)
    service = assembled(config, access_of(config), tmp_path, fetched("tiny-base", tmp_path))
    service.catalog.base_is_read(plain_reading())
    service.catalog.add("old", plain_reading())
    service.versions.ready.set_result(None)
    release = service.catalog.release

    def unload_at_once(version: str) -> None:
        release(version)
        service.catalog.retire(version)
        service.catalog.remove(version)

    monkeypatch.setattr(service.catalog, "release", unload_at_once)
    return service


@pytest.mark.parametrize("path", ["/v1/ocr", "/v1/chat/completions"])
def test_an_answer_needs_nothing_of_a_version_that_has_gone(service: Service, path: str) -> None:
    page = drawn_page("x")
    content = {"json": {"model": "old", "messages": picture_message(page)}}
    if path == "/v1/ocr":
        content = {"files": {"file": as_file(page)}, "data": {"model": "old"}}

    async def read() -> None:
        deadline = time.monotonic() + 300
        while not (jobs := service.queue.take("old", 1)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        jobs[0].result.set_result(PageReading("old", "text", False, False, 8, 4, -0.1, -0.2, (), {}))

    async def answered() -> httpx.Response:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            answer, _ = await asyncio.gather(client.post(path, **content), read())
            return answer

    try:
        answer = asyncio.run(answered())
    finally:
        service.documents.close()
    assert answer.status_code == 200 and answer.json()["model"] == "old", answer.text
    assert service.catalog.versions() == ["tiny-base"]
