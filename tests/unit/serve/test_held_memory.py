"""What all requests together hold in memory is bounded, and no client takes all of it: no engine runs here."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from components.serve.adapters.sources import fetched
from components.serve.assembly import assembled
from components.serve.batching.held_memory import MemoryFullError
from components.serve.config import ServeConfig
from components.serve.http import boundary
from components.serve.http.app import application
from components.serve.http.authentication import access_of
from components.serve.http.service import Service
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.evaluated_package import plain_reading

PAGE = as_file(drawn_page("x"))
PIXELS = drawn_page("x").width * drawn_page("x").height

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that takes requests and reads none."""
    limits = {"max_request_bytes": 50_000, "max_uploaded_bytes": 60_000, "max_queued_pixels": PIXELS * 3 // 2}
    config = ServeConfig(document_processes=1, **limits)
    service = assembled(config, access_of(config), tmp_path, fetched("tiny-base", tmp_path))
    service.catalog.base_is_read(plain_reading())
    service.versions.ready.set_result(None)
    yield service
    service.documents.close()


async def post(service: Service, client: str, **content: Any) -> httpx.Response:
    transport = httpx.ASGITransport(application(service), client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as sender:
        return await sender.post("/v1/ocr", **content)


class Upload:
    """A body that begins with ``first`` and does not end; ``held`` when the service waits for more."""

    def __init__(self, first: bytes, **headers: str) -> None:
        self.first, self.held = first, asyncio.Event()
        self.headers = {"Content-Type": "multipart/form-data; boundary=x", "Expect": "100-continue", **headers}

    async def body(self) -> AsyncIterator[bytes]:
        yield self.first
        self.held.set()
        await asyncio.Event().wait()

    async def begun(self, service: Service, client: str) -> asyncio.Task[httpx.Response]:
        task = asyncio.create_task(post(service, client, content=self.body(), headers=self.headers))
        held = asyncio.create_task(self.held.wait())
        await asyncio.wait([task, held], return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        return task


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def is_refused(answer: httpx.Response) -> bool:
    refused = answer.status_code == 429 and answer.json()["error"]["code"] == "memory_full"
    return refused and int(answer.headers["Retry-After"]) >= 1


def test_bodies_that_come_are_bounded_for_a_client_and_leave_room_for_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "_SECONDS_TO_DISCARD", 0.01)

    async def talk() -> None:
        said = {"Content-Length": "40000"}
        first = await Upload(b"", **said).begun(service, "a")
        second = await Upload(b"", **said).begun(service, "a")
        assert second.done() and is_refused(second.result()), "before its body is read"
        other = await Upload(b"", **said).begun(service, "b")
        assert not first.done() and not other.done()
        await ended(first, other)
        again = await Upload(b"", **said).begun(service, "a")
        assert not again.done()
        await ended(again)
        chunked = [await Upload(HEAD + bytes(40_000)).begun(service, "a") for _ in range(2)]
        assert is_refused(await chunked[1]) and not chunked[0].done(), "counted as they come"
        await ended(*chunked)

    asyncio.run(talk())


def test_who_holds_more_than_is_left_for_him_goes_on_with_what_he_has(service: Service) -> None:
    """A third client comes: of 120,000 bytes two hold 40,000 each, and 35,000 are left."""

    async def talk() -> None:
        said = {"Content-Length": "40000"}
        running = [await Upload(b"", **said).begun(service, client) for client in "ab"]
        third = await Upload(b"", **{"Content-Length": "5000"}).begun(service, "c")
        assert not any(task.done() for task in (*running, third))
        holding = service.memory.of_request("a")
        with pytest.raises(MemoryFullError):
            holding.take_bytes(1)
        holding.take_bytes(0)
        transport = httpx.ASGITransport(application(service), client=("a", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as sender:
            assert (await sender.get("/v1/models")).status_code == 200
        await ended(*running, third)

    asyncio.run(talk())


def test_opened_pages_are_bounded_until_their_requests_end(service: Service) -> None:
    async def waiting(client: str, pages: int) -> asyncio.Task[httpx.Response]:
        task = asyncio.create_task(post(service, client, files={"file": PAGE}))
        while len(service.queue) < pages:
            assert not task.done(), task.result().text
            await asyncio.sleep(0.01)
        return task

    async def talk() -> None:
        first = await waiting("a", 1)
        service.queue.take("tiny-base", 1)  # by an engine: its pixels are held all the same
        assert is_refused(await post(service, "a", files={"file": PAGE}))
        other = await waiting("b", 1)
        await ended(first)
        again = await waiting("a", 2)
        await ended(other, again)

    asyncio.run(talk())


def test_what_one_request_may_have_one_client_may_have() -> None:
    with pytest.raises(ValueError, match="max_uploaded_bytes must be at least max_request_bytes"):
        ServeConfig(max_request_bytes=1_000_000_000)


@pytest.mark.parametrize(("second", "status"), [(PAGE[:-40], 400), (PAGE, 413)])
def test_a_refused_request_holds_no_pages(service: Service, second: bytes, status: int) -> None:
    """Their room is given back at once, so their memory does not wait for the garbage collector."""

    async def images_more() -> int:
        uploads = [("file", PAGE), ("file", second)]
        assert (await post(service, "client", files=[("file", PAGE[:-40])])).status_code == 400
        gc.collect()
        gc.disable()
        try:
            before = living_images()
            answer = await post(service, "client", files=uploads)
            assert answer.status_code == status, answer.text
            return living_images() - before
        finally:
            gc.enable()

    assert asyncio.run(images_more()) <= 0


def living_images() -> int:
    return sum(
        issubclass(type(one), Image.Image) for one in gc.get_objects()
    )  # isinstance asks proxies, also dead ones
