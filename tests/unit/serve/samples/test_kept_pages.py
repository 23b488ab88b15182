"""What a running service keeps of requests: by default nothing; where allowed, the listed fields and nothing else."""

import io
import json
import re
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests
from PIL import Image, PngImagePlugin

from components.serve.samples.audit import Audit
from components.serve.samples.objects import objects_at
from components.serve.samples.store import SampleStore
from tests.fixtures.drawn_pages import drawn_page
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.span_receiver import receiving
from tests.fixtures.stored_samples import sample, write_settings

CLIENT = {"Authorization": "Bearer a-token-of-a-client"}
ADMIN = {"Authorization": "Bearer the-administrators-token"}
LINES = "a longer line of text", "and two lines\nof text"
PRIVATE = ("alice-upload", "ward-7", "a-token-of-a-client", "secret-instruction", "secret-comment", "127.0.0.1")
FIELDS = {
    *("schema_version", "request_id", "page", "role", "stored_at", "picture_sha256", "model", "own_instruction"),
    *("text", "mean_logprob", "min_logprob", "tokens", "truncated", "loop"),
}


def page(text: str) -> bytes:
    """Return a PNG file that says more than its pixels."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "secret-comment")
    stream = io.BytesIO()
    drawn_page(text).save(stream, "PNG", pnginfo=notes)
    return stream.getvalue()


def read(service: RunningService, request_id: str, *pages: bytes, instruction: str = "") -> list[str]:
    files = [("file", (f"alice-upload-{number}.png", content)) for number, content in enumerate(pages)]
    headers = CLIENT | {"X-Request-ID": request_id, "User-Agent": "ward-7"}
    fields = {"instruction": instruction} if instruction else {}
    answer = requests.post(f"{service.url}/v1/ocr", files=files, data=fields, headers=headers, timeout=300)
    assert answer.status_code == 200, answer.text
    return [one["text"] for one in answer.json()["pages"]]


def outcomes(service: RunningService) -> dict[str, int]:
    text = requests.get(f"{service.url}/metrics", headers=CLIENT, timeout=60).text
    found = re.findall(r'deepsynth_serve_samples_total\{outcome="(\w+)"\} ([\d.]+)', text)
    return {name: int(float(value)) for name, value in found}


def wait_for(service: RunningService, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert service.process.poll() is None and time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.02)


def contents(folder: Path, without: tuple[Path, ...] = ()) -> dict[Path, bytes]:
    """Return every file below ``folder``."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(one) for one in without)
    }


def stopped(service: RunningService) -> None:
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=300) == 0, service.log.read_text()


def started(folder: Path, endpoint: str, *flags: str) -> AbstractContextManager[RunningService]:
    (folder / "scratch").mkdir(parents=True)
    (folder / "tokens").write_text("ward-7:a-token-of-a-client\n")
    variables = {
        "TMPDIR": str(folder / "scratch"),
        "DEEPSYNTH_LOG": "json",
        "DEEPSYNTH_SERVE_ADMIN_TOKEN": "the-administrators-token",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
    }
    tokens = ("--token_file", str(folder / "tokens"), "--max_new_tokens", "48")
    return running_service(folder, *tokens, *flags, variables=variables)


@pytest.mark.slow
def test_by_default_no_output_holds_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log, metrics, spans, temporary files and the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with receiving() as receiver, started(tmp_path, receiver.address) as service:
        texts = read(service, "known-id", *map(page, LINES), instruction="secret-instruction")
        texts += read(service, "other-id", *map(page, LINES))
        assert requests.delete(f"{service.url}/admin/samples/known-id", headers=ADMIN, timeout=60).status_code == 404
        metrics = requests.get(f"{service.url}/metrics", headers=CLIENT, timeout=60).content
        kept = contents(tmp_path / "scratch")
        stopped(service)
        outputs = [metrics, service.log.read_bytes(), *receiver.bodies, *kept.values()]
        assert receiver.bodies and b"known-id" in service.log.read_bytes()
    secrets = [line for text in (*texts, *LINES) for line in text.split("\n") if len(line) > 3]
    assert len(secrets) >= 4, "the model read something"
    for secret in [*secrets, "alice-upload", "a-token-of-a-client", "secret-instruction", "secret-comment"]:
        assert not any(secret.encode() in output for output in outputs), secret
    assert [path for path in kept if path.suffix != ".lock"] == []
    assert list((tmp_path / "work").iterdir()) == []


def test_where_allowed_pages_are_kept_without_names_until_they_are_deleted(tmp_path: Path) -> None:
    """One service for all of it: starting one takes seconds."""
    place = tmp_path / "store"
    settings = write_settings(tmp_path, str(place))
    old = SampleStore(objects_at(str(place)), Audit(tmp_path / "before.jsonl"))
    old.add(*sample("too-old", "an old page", days_old=31))
    with receiving() as receiver, started(tmp_path, receiver.address, "--config", str(settings)) as service:
        wait_for(service, lambda: outcomes(service).get("expired") == 1)
        assert not contents(place), "retention is enforced by the service, at its start too"
        texts = read(service, "first-id", page(LINES[0]), page(LINES[0]), page(LINES[1]))
        texts += read(service, "second-id", page(LINES[1]), instruction="secret-instruction")
        wait_for(service, lambda: outcomes(service).get("stored") == 4)
        _check_what_is_kept(place, texts)
        _check_deletion(service, place)
        _check_a_store_that_fails(service, place)
        metrics = requests.get(f"{service.url}/metrics", headers=CLIENT, timeout=60).content
        stopped(service)
    outside = [metrics, *receiver.bodies, *contents(tmp_path, without=(place,)).values()]
    for text in texts:
        assert not any(line.encode() in output for output in outside for line in text.split("\n") if len(line) > 3)
    audit = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {line["who"] for line in audit} == {"service", "environment"}, "the administrator's token has that name"
    assert not any(name.encode() in (tmp_path / "audit.jsonl").read_bytes() for name in PRIVATE)


def _check_what_is_kept(place: Path, texts: list[str]) -> None:
    readings = [json.loads(path.read_text()) for path in (place / "readings").iterdir()]
    assert sorted(reading["text"] for reading in readings) == sorted(texts)
    assert all(set(reading) == FIELDS for reading in readings)
    assert {(one["request_id"], one["page"], one["own_instruction"]) for one in readings} == {
        *(("first-id", number, False) for number in (1, 2, 3)),
        ("second-id", 1, True),
    }
    pictures = list((place / "pages").iterdir())
    assert len(pictures) == 2, "equal pages are stored once"
    drawn = {drawn_page(text).convert("L").tobytes() for text in LINES}
    assert {Image.open(picture).tobytes() for picture in pictures} == drawn
    for path, content in contents(place).items():
        assert not any(name.encode() in content or name in path.name for name in PRIVATE)
        assert oct(path.stat().st_mode)[-3:] == "600"


def _check_deletion(service: RunningService, place: Path) -> None:
    address = f"{service.url}/admin/samples/first-id"
    assert requests.delete(address, headers=CLIENT, timeout=60).status_code == 401
    assert requests.delete(address, headers=ADMIN, timeout=60).json() == {"request_id": "first-id", "deleted": 3}
    assert requests.delete(address, headers=ADMIN, timeout=60).json()["deleted"] == 0
    assert len(list((place / "readings").iterdir())) == len(list((place / "pages").iterdir())) == 1


def _check_a_store_that_fails(service: RunningService, place: Path) -> None:
    (place / "readings").rename(place / "elsewhere")
    (place / "readings").write_text("a file where a folder should be")
    assert read(service, "unlucky-id", page(LINES[0])), "the request is answered"
    wait_for(service, lambda: outcomes(service).get("failed", 0) > 0)
    assert "the sample store fails" in service.log.read_text()
    assert requests.delete(f"{service.url}/admin/samples/x", headers=ADMIN, timeout=60).status_code == 503
    (place / "readings").unlink()
    (place / "elsewhere").rename(place / "readings")
    stored = outcomes(service)["stored"]
    read(service, "lucky-id", page(LINES[0]))
    wait_for(service, lambda: outcomes(service)["stored"] == stored + 1)
