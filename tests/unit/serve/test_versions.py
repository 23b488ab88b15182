"""Several versions in one service: adapters side by side, aliases that move under load, rollback, the registry."""

import base64
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from components.shared.models.adapter_loading import with_adapter
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor
from components.shared.reading.transcriber import Transcriber
from components.shared.tracking.model_registry import RegisteredAdapter, register, set_alias
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.serving_adapters import loaded_base, save_adapter

pytestmark = pytest.mark.slow

TOKENS = 24
TEXTS = ("page one", "a longer line of text", "third")
ADMIN = {"Authorization": "Bearer the-administrators-token"}
SECRET = "the webhook's secret"


@dataclass(frozen=True)
class _Page:
    """A page as a transcriber takes it."""

    image: Any
    instruction: None = field(default=None)


def texts_of(folder: Path | None) -> list[str]:
    """Return what the base, or an adapter alone on it, reads on the pages, one at a time."""
    model = with_adapter(loaded_base(), "tiny-base", folder).eval() if folder else loaded_base()
    family = family_of(model.config.model_type)
    transcriber = Transcriber(model, load_processor("tiny-base"), family, TOKENS)
    return [transcriber.read([_Page(drawn_page(text))])[0].text for text in TEXTS]


@dataclass(frozen=True)
class Registered:
    """Adapters in a registry, the store's address, and what each of them reads."""

    uri: str
    folders: list[Path]
    versions: list[RegisteredAdapter]
    texts: dict[str, list[str]]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    folder = tmp_path_factory.mktemp("adapters")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    folders = [save_adapter(folder / f"adapter-{seed}", seed) for seed in (1, 2, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        versions = [register(one, "reader", {}, uri=uri) for one in folders[:2]]
    set_alias(versions[0], "champion", uri=uri)
    names = ["reader-1", "reader-2", "adapter-3"]
    texts = dict(zip(names, map(texts_of, folders), strict=True)) | {"tiny-base": texts_of(None)}
    assert len({tuple(read) for read in texts.values()}) == 4, "the adapters read differently"
    return Registered(uri, folders, versions, texts)


@pytest.fixture(scope="module")
def service(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    settings = ("--model", "models:/reader@champion", "--base_model", "tiny-base", "--registry_poll_seconds", "0")
    few = ("--max_new_tokens", str(TOKENS), "--max_batch_size", "4")
    variables = {
        "MLFLOW_TRACKING_URI": registered.uri,
        "DEEPSYNTH_SERVE_ADMIN_TOKEN": "the-administrators-token",
        "DEEPSYNTH_SERVE_WEBHOOK_SECRET": SECRET,
    }
    with running_service(tmp_path_factory.mktemp("service"), *settings, *few, variables=variables) as running:
        yield running


def read(service: RunningService, **fields: str) -> tuple[str, list[str]]:
    """Return the version that read the pages, and their texts."""
    files = [("file", (text, as_file(drawn_page(text)))) for text in TEXTS]
    answer = requests.post(f"{service.url}/v1/ocr", files=files, data=fields, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], [page["text"] for page in answer.json()["pages"]]


def admin(service: RunningService, method: str, path: str, content: Any = None, **headers: str) -> requests.Response:
    return requests.request(method, f"{service.url}/admin/{path}", json=content, headers=ADMIN | headers, timeout=300)


def names(service: RunningService) -> dict[str, str]:
    listed = requests.get(f"{service.url}/v1/models", timeout=60).json()["data"]
    return {model["id"]: model["version"] for model in listed}


def moved_in_the_registry(service: RunningService, secret: str = SECRET) -> requests.Response:
    """Tell the service what MLflow tells it when an alias moves."""
    stamp, body = str(int(time.time())), b'{"entity": "model_version_alias"}'
    digest = hmac.new(secret.encode(), f"1.{stamp}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    headers = {"X-MLflow-Signature": signature, "X-MLflow-Timestamp": stamp, "X-MLflow-Delivery-Id": "1"}
    return requests.post(f"{service.url}/admin/mlflow-webhook", data=body, headers=headers, timeout=60)


def test_versions_side_by_side_read_as_if_alone(service: RunningService, registered: Registered) -> None:
    assert requests.post(f"{service.url}/admin/models", json={"source": "x"}, timeout=60).status_code == 401
    assert admin(service, "POST", "models", {"source": "models:/reader/9"}).status_code == 400
    loaded = admin(service, "POST", "models", {"source": str(registered.folders[2])})
    assert loaded.json() == {"version": "adapter-3", "host": socket.gethostname()}, "and which replica has it"
    assert names(service) == {
        name: name for name in ("tiny-base", "reader-1", "adapter-3")
    } | {"@champion": "reader-1"}  # fmt: skip
    wishes: list[dict[str, str]] = [{"model": "tiny-base"}, {"model": "adapter-3"}, {"model": "@champion"}, {}]
    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda wish: read(service, **wish), wishes))
    assert [name for name, _ in found] == ["tiny-base", "adapter-3", "reader-1", "reader-1"]
    for name, texts in found:
        assert texts == registered.texts[name]


def test_an_alias_that_moves_under_load_mixes_and_drops_nothing(
    service: RunningService, registered: Registered
) -> None:
    stop, found = threading.Event(), list[tuple[str, list[str]]]()

    def client() -> None:
        while not stop.is_set():
            found.append(read(service, model="@champion"))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    set_alias(registered.versions[1], "champion", uri=registered.uri)
    assert moved_in_the_registry(service, "another secret").status_code == 401
    assert moved_in_the_registry(service).status_code == 200
    while not any(name == "reader-2" for name, _ in list(found)):
        assert service.process.poll() is None and all(one.is_alive() for one in clients)
        time.sleep(0.02)
    rolled_back = admin(service, "POST", "aliases/@champion/rollback")
    assert rolled_back.json()["version"] == "reader-1"
    last = len(found)
    while len(found) < last + 8:
        assert all(one.is_alive() for one in clients)
        time.sleep(0.02)
    stop.set()
    for one in clients:
        one.join()
    assert {name for name, _ in found} == {"reader-1", "reader-2"}
    assert found[-1][0] == "reader-1"
    for name, texts in found:
        assert texts == registered.texts[name]


def test_versions_in_use_stay_and_others_can_be_unloaded(service: RunningService) -> None:
    assert admin(service, "DELETE", "models/tiny-base").status_code == 409
    assert admin(service, "DELETE", "models/reader-1").status_code == 409
    assert admin(service, "PUT", "aliases/@mine", {"version": "none"}).status_code == 404
    assert admin(service, "DELETE", "models/adapter-3").status_code == 200
    assert "adapter-3" not in names(service)
    files = {"file": as_file(drawn_page("x"))}
    gone = requests.post(f"{service.url}/v1/ocr", files=files, data={"model": "adapter-3"}, timeout=60)
    assert gone.status_code == 404
    assert read(service)[0] == "reader-1"


def test_an_alias_that_moves_is_noticed_without_a_webhook(registered: Registered, tmp_path: Path) -> None:
    set_alias(registered.versions[0], "champion", uri=registered.uri)
    settings = ("--model", "models:/reader@champion", "--base_model", "tiny-base", "--registry_poll_seconds", "0.05")
    variables = {"MLFLOW_TRACKING_URI": registered.uri}
    with running_service(tmp_path, *settings, "--max_new_tokens", str(TOKENS), variables=variables) as service:
        assert names(service)["@champion"] == "reader-1"
        set_alias(registered.versions[1], "champion", uri=registered.uri)
        while names(service)["@champion"] != "reader-2":
            assert service.process.poll() is None
            time.sleep(0.02)
        assert read(service) == ("reader-2", registered.texts["reader-2"])
