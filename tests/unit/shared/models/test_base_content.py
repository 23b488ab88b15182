"""The base model's digest for KFP's cache: different content under the same name gives a different digest."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from components.shared.models.base_content import UNKNOWN, base_digest
from components.shared.models.base_models import TINY_BASE, TINY_BASE_FOLDER
from components.shared.models.hub import hub_is_reachable
from pipelines.task_side.resolution import resolve
from tests.fixtures.refusing_server import refusing_server

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_BASE_FOLDER, tmp_path / "base"))


@pytest.fixture
def branch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A hub that knows me/reader, whose branch main is at the commit ``branch["main"]``; the cache is empty."""
    at = {"main": FIRST}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            commit = at.get(self.path.partition("/revision/")[2] or "main")
            content = json.dumps({"id": "me/reader", "sha": commit, "siblings": []}).encode()
            self.send_response(200 if commit else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield at
    hub_is_reachable.cache_clear()
    server.shutdown()
    server.server_close()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_is_reachable.cache_clear()


def in_the_cache(cache: Path, commit: str) -> None:
    """Fill ``cache`` like the hub's library does for me/reader's branch main at ``commit``."""
    model = cache / "models--me--reader"
    for path, text in ((model / "refs" / "main", commit), (model / "snapshots" / commit / "config.json", "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(text)


def test_the_bundled_base_and_its_copy_are_the_same(folder: Path) -> None:
    assert base_digest(TINY_BASE, None) == base_digest(str(folder), None)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.lock").touch()
    os.utime(folder / "model.safetensors", (1, 1))
    assert base_digest(TINY_BASE, None) == base_digest(str(folder), None)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_another_content_at_the_same_place_is_another_input_of_the_steps(
    folder: Path, name: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    config = json.dumps({"source": str(tmp_path / "rows.jsonl"), "base_model": str(folder)})
    before = resolve(config, {}).base_digest
    assert resolve(config, {}).base_digest == before
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    assert resolve(config, {}).base_digest != before


def test_of_large_files_the_time_of_change_counts(folder: Path) -> None:
    with (folder / "model-00001.bin").open("wb") as stream:
        stream.truncate(2**40)  # sparse; reading all of it would take minutes
    digests = []
    for changed in (1, 1, 2):
        os.utime(folder / "model-00001.bin", (changed, changed))
        digests.append(base_digest(str(folder), None))
    assert digests[0] == digests[1] != digests[2]


def test_a_branch_that_moved_is_another_input(branch: dict[str, str], tmp_path: Path) -> None:
    in_the_cache(tmp_path / "cache", FIRST)
    assert base_digest("me/reader", None) == FIRST
    branch["main"] = SECOND
    assert base_digest("me/reader", None) == SECOND, "the steps would load it, whatever the cache holds"
    branch["v1"] = FIRST
    assert base_digest("me/reader", "v1") == FIRST
    assert base_digest("me/reader", "c" * 40) == "c" * 40, "a commit is what it is"


@pytest.mark.parametrize("why", ["refused", "offline"])
def test_without_the_hubs_answer_it_is_what_the_cache_holds(
    branch: dict[str, str], tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with refusing_server(503) as server:
        use_hub(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", why == "offline")
        assert base_digest("me/reader", None) == UNKNOWN
        assert "me/reader: which commit it is cannot be had" in caplog.text
        in_the_cache(tmp_path / "cache", FIRST)
        assert base_digest("me/reader", None) == FIRST
