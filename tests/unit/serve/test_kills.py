"""kill -9 of the service and of MLflow under load: every request gets a text or an error, and reading goes on."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from components.shared.tracking.model_registry import register, set_alias
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.mlflow_server import end, mlflow_server
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.serving_adapters import save_adapter

pytestmark = pytest.mark.slow

FLAGS = ("--base_model", "tiny-base", "--max_new_tokens", "24", "--max_batch_size", "4")
PAGE = as_file(drawn_page("a page of text"))
BOUND = 300.0


def read(service: RunningService) -> tuple[str, str]:
    """Return the version that read a page, and its text."""
    answer = requests.post(f"{service.url}/v1/ocr", files={"file": PAGE}, timeout=BOUND)
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], answer.json()["pages"][0]["text"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_service_leaves_no_request_without_an_answer_or_an_error(tmp_path: Path) -> None:
    read_by: list[list[tuple[str, str]]] = [[] for _ in range(6)]
    errors: list[Exception] = []

    def client(found: list[tuple[str, str]]) -> None:
        while True:
            try:
                found.append(read(service))
            except requests.RequestException as error:
                errors.append(error)
                return

    with running_service(tmp_path, *FLAGS) as service:
        clients = [threading.Thread(target=client, args=(found,), daemon=True) for found in read_by]
        for one in clients:
            one.start()
        wait_for(lambda: all(len(found) > 1 for found in read_by))
        service.process.kill()
        for one in clients:
            one.join(BOUND)
        assert not any(one.is_alive() for one in clients), "a request waits for ever"
    assert len(errors) == len(clients)
    assert len({answer for found in read_by for answer in found}) == 1
    with running_service(tmp_path, *FLAGS) as service:
        assert read(service) == read_by[0][0]


def test_a_killed_registry_stops_no_reading_and_its_aliases_are_followed_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with mlflow_server(tmp_path) as (uri, server):
        versions = [register(save_adapter(tmp_path / str(seed), seed), "reader", {}, uri=uri) for seed in (1, 2)]
        set_alias(versions[0], "champion", uri=uri)
        followed = ("--model", "models:/reader@champion", "--registry_poll_seconds", "0.2")
        with running_service(tmp_path, *followed, *FLAGS, variables={"MLFLOW_TRACKING_URI": uri}) as service:
            before = read(service)
            assert before[0] == "reader-1"
            end(server)
            wait_for(lambda: service.metric('deepsynth_serve_failures_total{reason="registry"}') > 0)
            assert read(service) == before
            assert requests.get(f"{service.url}/health/ready", timeout=BOUND).status_code == 200
            with mlflow_server(tmp_path, int(uri.rpartition(":")[2])):
                set_alias(versions[1], "champion", uri=uri)
                wait_for(lambda: read(service)[0] == "reader-2")
                assert read(service)[1] != before[1]
