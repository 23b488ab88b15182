"""Clients of a service with tokens: ``deepsynth read --model http://…``, and the examples of docs/serving.md."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
import urllib3.util.retry
from typer.testing import CliRunner, Result

from pipelines.command_line import app
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import RunningService, running_service

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
TOKEN = "fedcba98765432100123"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    few = ("--max_new_tokens", "24", "--max_queued_pages", "2", "--no_repeat_ngram_size", "3")
    with running_service(folder, *few, variables={"DEEPSYNTH_SERVE_TOKEN": TOKEN}) as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the times that urllib3 waited; it does not really wait."""
    found: list[float] = []
    monkeypatch.setattr(urllib3.util.retry.time, "sleep", found.append)
    return found


def run_read(path: Path, address: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["read", str(path), "--model", address, "--json", *more])


def test_the_examples_of_the_documentation_read_a_page(service: RunningService, tmp_path: Path) -> None:
    examples = PAGE.read_text().split("test_remote_reader.py: begin -->")[1].split("<!-- run: end")[0]
    found = re.findall(r"```(bash|python)\n(.*?)```", examples, flags=re.DOTALL)
    assert [language for language, _ in found] == ["bash"] * 4 + ["python"] * 2
    (tmp_path / "page.png").write_bytes(as_file(drawn_page("an example")))
    files, token = {"file": (tmp_path / "page.png").read_bytes()}, {"Authorization": f"Bearer {TOKEN}"}
    pages = requests.post(f"{service.url}/v1/ocr", files=files, headers=token, timeout=300).json()["pages"]
    text = pages[0]["text"]
    environment = os.environ | {"SERVICE": service.url, "DEEPSYNTH_SERVE_TOKEN": TOKEN}
    printed = []
    for language, code in found:
        program = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
        answer = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        printed.append(answer.stdout)
    once, twice, chat, models, of_requests, of_openai = printed
    assert [page["text"] for page in json.loads(once)["pages"]] == [text]
    assert [page["text"] for page in json.loads(twice)["pages"]] == [text, text]
    assert json.loads(chat)["choices"][0]["message"]["content"] == text
    assert "tiny-base" in [model["id"] for model in json.loads(models)["data"]]
    assert of_requests == text and of_openai == f"{text}\n{text}", "at once, and as a stream"


def test_files_are_read_with_the_token(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.png").write_bytes(as_file(drawn_page("one line")))
    (tmp_path / "two.tiff").write_bytes(as_file(drawn_page("page one"), drawn_page("page two"), kind="TIFF"))
    refused = run_read(tmp_path, service.url)
    assert "401" in str(refused.exception) and "set DEEPSYNTH_SERVE_TOKEN" in str(refused.exception)
    monkeypatch.setenv("DEEPSYNTH_SERVE_TOKEN", TOKEN)
    said = run_read(tmp_path, service.url)
    assert said.exit_code == 0, said.exception
    pages = [json.loads(line) for line in said.stdout.splitlines()]
    places = [(Path(page["file"]).name, page["page"]) for page in pages]
    assert places == [("one.png", 1), ("two.tiff", 1), ("two.tiff", 2)]
    assert all(page["text"] for page in pages)


def test_version_and_longest_answer_are_the_services_to_know(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSYNTH_SERVE_TOKEN", TOKEN)
    file = tmp_path / "one.png"
    file.write_bytes(as_file(drawn_page("one line")))
    said = run_read(file, service.url, "--max-new-tokens", "3", "--served-model", "tiny-base")
    page = json.loads(said.stdout)
    assert (page["tokens"], page["truncated"]) == (3, True)
    unknown = run_read(file, service.url, "--served-model", "page-reader-9")
    assert "page-reader-9" in str(unknown.exception) and "/v1/models" in str(unknown.exception)


def test_a_file_that_the_service_refuses_does_not_keep_the_others_from_being_read(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSYNTH_SERVE_TOKEN", TOKEN)
    folder, readable = tmp_path / "files", tmp_path / "readable"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(as_file(drawn_page("one line")))
    (folder / "b.png").write_bytes(b"not a picture")
    said = run_read(folder, service.url, "--searchable-pdf", str(readable))
    assert [Path(json.loads(line)["file"]).name for line in said.stdout.splitlines()] == ["a.png", "c.png"]
    assert "1 of 3 files failed" in str(said.exception) and "neither a PDF nor a picture" in said.stderr
    assert sorted(file.name for file in readable.iterdir()) == ["a.pdf", "c.pdf"]


def test_a_full_queue_is_asked_again_after_the_time_that_it_says(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """The file has more pages than may wait, so it is refused each time."""
    monkeypatch.setenv("DEEPSYNTH_SERVE_TOKEN", TOKEN)
    file = tmp_path / "three.tiff"
    file.write_bytes(as_file(*[drawn_page("page")] * 3, kind="TIFF"))
    refused = run_read(file, service.url)
    assert "429" in str(refused.exception) and "try again later" in str(refused.exception)
    assert len(waits) == 8 and all(1 <= seconds <= 60 for seconds in waits)


def test_a_service_that_is_free_again_reads_the_file(tmp_path: Path, waits: list[float]) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(as_file(drawn_page("one line")))
    page = {"text": "read", "page": 1, "truncated": False, "loop": False}
    with answering([(429, "7", {}), (503, "9999", {}), (200, None, {"pages": [page]})]) as (address, bodies):
        said = run_read(file, address)
    assert said.exit_code == 0, said.exception
    assert json.loads(said.stdout)["text"] == "read"
    assert waits == [7, 60], "Retry-After, and a minute at most"
    assert len({body.count(file.read_bytes()) for body in bodies}) == 1, "the whole file is sent each time"


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (200, {"other": 1}, "correct the address"),
        (404, {"detail": "Not Found"}, "the address is that of the service alone"),
        (413, {"error": {"message": "too large"}}, "split the file"),
        (302, {}, "correct the address"),
    ],
)
def test_other_answers_name_a_mend(status: int, content: dict[str, object], said: str, tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(as_file(drawn_page("one line")))
    with answering([(status, None, content)]) as (address, _):
        refused = run_read(file, address)
    assert said in str(refused.exception)
    gone = run_read(file, address)
    assert "cannot be reached" in str(gone.exception) and "deepsynth serve" in str(gone.exception)


@contextmanager
def answering(answers: list[tuple[int, str | None, dict[str, object]]]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the address of a server that gives each answer (status, Retry-After, JSON) once, and the bodies it got."""
    left, bodies = list(answers), list[bytes]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, after, content = left.pop(0)
            body = json.dumps(content).encode()
            self.send_response(status)
            if after:
                self.send_header("Retry-After", after)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()
