"""MLflow's webhook: a time that is no time is refused like a wrong signature."""

import asyncio
from pathlib import Path

import httpx
import pytest

from components.serve.adapters.sources import fetched
from components.serve.assembly import assembled
from components.serve.config import ServeConfig
from components.serve.http.admin import WEBHOOK_VARIABLE
from components.serve.http.app import application
from components.serve.http.authentication import access_of


@pytest.mark.parametrize("stamp", ["9" * 400, "9" * 5000, "-1", "soon", ""])
def test_a_time_that_is_none_is_a_wrong_signature(stamp: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, "the webhook's secret")
    config = ServeConfig()
    service = assembled(config, access_of(config), tmp_path, fetched("tiny-base", tmp_path))

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/admin/mlflow-webhook", headers={"X-MLflow-Timestamp": stamp})

    answer = asyncio.run(post())
    service.documents.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_signature")
