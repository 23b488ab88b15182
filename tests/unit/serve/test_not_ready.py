"""What a service answers before it is ready, and when it cannot become so: no engine runs here."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.serve.adapters.sources import fetched
from components.serve.assembly import assembled
from components.serve.config import ServeConfig
from components.serve.http.app import application
from components.serve.http.authentication import access_of
from components.serve.http.service import Service
from components.shared.errors import UserError
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.vllm_server import small_adapter

TOKEN = "the-administrators-token"


def service_of(folder: Path, **settings: Any) -> Service:
    config = ServeConfig(document_processes=1, **settings)
    return assembled(config, access_of(config), folder, fetched("tiny-base", folder))


def asked(service: Service, method: str, path: str, **content: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            return await client.request(method, path, **content)

    try:
        return asyncio.run(ask())
    finally:
        service.documents.close()


def test_a_page_is_refused_when_the_base_could_not_be_loaded(tmp_path: Path) -> None:
    """A moment later the service ends; its balancer asks another one."""
    service = service_of(tmp_path)
    service.versions.ready.set_exception(UserError("no weights", where="tiny-base"))
    answer = asked(service, "POST", "/v1/ocr", files={"file": as_file(drawn_page("x"))})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")


def test_an_administrator_hears_that_the_engine_is_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSYNTH_SERVE_ADMIN_TOKEN", TOKEN)
    service = service_of(tmp_path, engine="vllm", vllm_address="http://127.0.0.1:1")
    source = {"source": str(small_adapter(tmp_path / "early"))}
    answer = asked(service, "POST", "/admin/models", json=source, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_down")
    assert "is starting" in answer.text and service.catalog.versions() == ["tiny-base"]


@pytest.mark.parametrize("engine", ["vllm", "embedded"])
def test_an_administrator_hears_that_the_engine_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("DEEPSYNTH_SERVE_ADMIN_TOKEN", TOKEN)
    address = {"vllm_address": "http://127.0.0.1:1"} if engine == "vllm" else {}
    service = service_of(tmp_path, engine=engine, **address)
    service.engine._stopping.set()  # type: ignore[attr-defined]
    source = {"source": str(small_adapter(tmp_path / "late"))}
    answer = asked(service, "POST", "/admin/models", json=source, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert "has stopped" in answer.text and service.catalog.versions() == ["tiny-base"]
