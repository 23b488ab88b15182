"""The service as its clients see it: a process on 127.0.0.1 that reads pages over HTTP."""

import base64
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
import torch
from openai import APIStatusError, OpenAI
from PIL import Image

from components.serve.config import ServeConfig
from components.serve.step import run
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.programs.step_command import step_main
from components.shared.reading.transcriber import Prediction, Transcriber
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.pdf_files import pdf_claiming_pages, pdf_drawing_itself, pdf_of_nested_forms
from tests.fixtures.service_process import RunningService, running_service

TOKENS = ("--max_new_tokens", "48", "--max_batch_size", "4")
BEYOND_LIMITS = {"document_over_time", "document_over_memory", "document_crashed_its_reader"}
KNOWN = {"Authorization": "Bearer fedcba98765432100123"}
SCRAPER = {"Authorization": "Bearer scraper-0123456789abcdef"}
ADMIN = {"Authorization": "Bearer administrator-0123456789"}
TEXTS = ("page one", "a longer line of text", "third", "and two lines\nof text", "the fifth page", "six")


class _Page:
    """A page as a transcriber takes it."""

    instruction = None

    def __init__(self, image: Image.Image) -> None:
        self.image = image


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "scratch").mkdir()
    variables = {"DEEPSYNTH_LOG": "json", "TMPDIR": str(folder / "scratch")}
    limits = ("--max_document_seconds", "1", "--max_document_gib", "0.25")
    with running_service(folder, *TOKENS, *limits, variables=variables) as running:
        yield running


@pytest.fixture(scope="module")
def predictions() -> list[Prediction]:
    """What the evaluation's transcriber reads on the pages, one page at a time."""
    model: Any = load_model("tiny-base", dtype=torch.float32, device=torch.device("cpu")).eval()
    transcriber = Transcriber(model, load_processor("tiny-base"), family_of(model.config.model_type), 48)
    return [transcriber.read([_Page(drawn_page(text))])[0] for text in TEXTS]


@pytest.fixture(scope="module")
def expected(predictions: list[Prediction]) -> list[str]:
    return [prediction.text for prediction in predictions]


def read(url: str, *files: bytes, headers: dict[str, str] | None = None, **fields: str) -> requests.Response:
    parts = [("file", (f"{number}.bin", content)) for number, content in enumerate(files)]
    return requests.post(f"{url}/v1/ocr", files=parts, data=fields, headers=headers, timeout=300)


def picture_message(*pages: Image.Image, text: str | None = None) -> Any:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(as_file(page)).decode()}"}}
        for page in pages
    ]
    return [{"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}]


def test_pages_that_share_steps_are_read_as_if_alone(
    service: RunningService, expected: list[str], predictions: list[Prediction]
) -> None:
    """Six pages of different lengths, in four places: pages enter and leave while others are read."""
    answer = read(service.url, *(as_file(drawn_page(text)) for text in TEXTS))
    assert answer.status_code == 200, answer.text
    pages = answer.json()["pages"]
    assert [page["text"] for page in pages] == expected
    assert [(page["file"], page["page"]) for page in pages] == [(f"{number}.bin", 1) for number in range(6)]
    assert answer.headers["x-request-id"] == answer.json()["id"]
    for page, prediction in zip(pages, predictions, strict=True):
        confidence = page["confidence"]
        assert set(confidence) == {"mean_logprob", "min_logprob"}, "the base has no calibration"
        assert confidence["mean_logprob"] == pytest.approx(prediction.mean_logprob, abs=1e-3), "as evaluate measures it"
        assert confidence["min_logprob"] <= confidence["mean_logprob"] <= 0
        assert [line["text"] for line in page["lines"]] == [line for line in page["text"].split("\n") if line]
        assert min(line["min_logprob"] for line in page["lines"]) >= confidence["min_logprob"]
        assert set(page["seconds"]) == {"queue", "prepare", "prefill", "decode"}
    assert service.metric("deepsynth_serve_batch_rows_count") > 0


def test_tiffs_and_pdfs_give_all_their_pages(service: RunningService, expected: list[str]) -> None:
    pages = [drawn_page(text) for text in TEXTS[:2]]
    answer = read(service.url, as_file(*pages, kind="TIFF"), as_file(*pages, kind="PDF")).json()["pages"]
    assert [(page["file"], page["page"]) for page in answer] == [("0.bin", 1), ("0.bin", 2), ("1.bin", 1), ("1.bin", 2)]
    assert [page["text"] for page in answer[:2]] == expected[:2]
    assert all(page["text"] for page in answer)


def test_openais_client_reads_a_page_and_follows_a_stream(service: RunningService, expected: list[str]) -> None:
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        assert "tiny-base" in [model.id for model in client.models.list()]
        page = picture_message(drawn_page(TEXTS[1]))
        answer = client.chat.completions.create(model="tiny-base", messages=page, temperature=0)
        assert answer.choices[0].message.content == expected[1]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage and answer.usage.completion_tokens > 0
        stream = client.chat.completions.create(
            model="tiny-base",
            messages=picture_message(drawn_page(TEXTS[0]), drawn_page(TEXTS[1])),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == f"{expected[0]}\n\n{expected[1]}"
        assert len([piece for piece in pieces if piece]) > 4, "the text comes in pieces"
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 0
        neutral = {"temperature": 0, "stop": [], "logprobs": False, "frequency_penalty": 0, "seed": 7, "n": 1}
        again = client.chat.completions.create(model="tiny-base", messages=page, **neutral)
        assert again.choices[0].message.content == expected[1]
        both, wish = picture_message(drawn_page(TEXTS[0]), drawn_page(TEXTS[1])), {"model": "tiny-base"}
        cut = client.chat.completions.create(**wish, messages=both, max_tokens=30)
        chunks = list(client.chat.completions.create(
            **wish, messages=both, max_tokens=30, stream=True, stream_options={"include_usage": True}
        ))  # fmt: skip
        pages = cut.model_extra["deepsynth"]["pages"]
        assert [read["truncated"] for read in pages] == [False, True], "max_tokens is of a page"
        assert cut.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "length"
        assert cut.usage.completion_tokens == sum(read["tokens"] for read in pages) > 30
        assert chunks[-1].usage == cut.usage
        short = client.chat.completions.create(model="tiny-base", messages=page, max_tokens=2)
        assert short.choices[0].finish_reason == "length"
        assert short.usage and short.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_system_message_is_the_instruction_or_its_beginning(service: RunningService, stream: bool) -> None:
    def read(instruction: str | None, *before: tuple[str, Any]) -> str:
        messages = [{"role": role, "content": content} for role, content in before]
        body = {"messages": [*messages, *picture_message(drawn_page(TEXTS[1]), text=instruction)], "stream": stream}
        answer = requests.post(f"{service.url}/v1/chat/completions", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        if not stream:
            return str(answer.json()["choices"][0]["message"]["content"])
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events)

    assert read(None, ("system", "Read this:")) == read("Read this:") != read(None)
    parts = [{"type": "text", "text": "Read this:"}]
    assert read("All of it.", ("developer", parts)) == read("Read this:\nAll of it.") != read("All of it.")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"temperature": 0.7}, 400, "unsupported_parameter"),
        ({"stop": ["\n"]}, 400, "unsupported_parameter"),
        ({"logprobs": True}, 400, "unsupported_parameter"),
        ({"logit_bias": {"5": 100}}, 400, "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, 400, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter"),
        ({"extra_body": {"repetition_penalty": 1.2}}, 400, "unsupported_parameter"),
        ({"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "no picture"}]}, 400, None),
        ({"messages": "none"}, 400, None),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]}
                ]
            },
            400,
            "remote_image_refused",
        ),
    ],
)
def test_refusals_have_openais_shape(
    service: RunningService, change: dict[str, Any], status: int, code: str | None
) -> None:
    wish = {"model": "tiny-base", "messages": picture_message(drawn_page("x")), **change}
    client = OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
    with client, pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**wish)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.message


def test_what_is_not_a_page_is_refused(service: RunningService) -> None:
    broken = as_file(drawn_page("x"))[:90]
    for content, code in ((b"plain text", "unknown_format"), (broken, "broken_file"), (b"%PDF-1.7 no", "broken_file")):
        answer = read(service.url, content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert requests.post(f"{service.url}/v1/ocr", json={}, timeout=60).status_code == 400
    assert (
        read(service.url, as_file(drawn_page("x")), max_new_tokens="many").json()["error"]["param"] == "max_new_tokens"
    )
    instruction = read(service.url, as_file(drawn_page("x")), instruction="<|image_pad|>")
    assert instruction.status_code == 400, "the picture's token in the prompt would mean a second picture"
    assert requests.get(f"{service.url}/nothing", timeout=60).json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("content", "status", "codes"),
    [
        (pdf_drawing_itself, 400, BEYOND_LIMITS),
        (pdf_of_nested_forms, 400, BEYOND_LIMITS),
        (lambda: pdf_claiming_pages(1_000_000), 400, {"broken_file", *BEYOND_LIMITS}),
        (lambda: as_file(Image.new("1", (9_000, 9_000))), 413, {"page_too_large"}),
        (lambda: as_file(Image.new("1", (9_000, 9_000)), kind="TIFF"), 413, {"page_too_large"}),
        (lambda: as_file(Image.new("P", (7_900, 7_900)), transparency=0), 400, BEYOND_LIMITS),
    ],
    ids=["draws itself", "nested forms", "claims pages", "PNG bomb", "TIFF bomb", "transparent bomb"],
)
def test_hostile_uploads_are_refused_and_the_next_one_is_read(
    service: RunningService, content: Callable[[], bytes], status: int, codes: set[str]
) -> None:
    answer = read(service.url, content())
    assert answer.status_code == status and answer.json()["error"]["code"] in codes, answer.text
    assert read(service.url, as_file(drawn_page("x"))).status_code == 200


def test_web_pages_cannot_use_a_service_without_tokens(service: RunningService) -> None:
    page = as_file(drawn_page("x"))
    port = urlsplit(service.url).port
    foreign: list[dict[str, str]] = [{"Origin": origin} for origin in ("https://elsewhere.example", "null", "file://")]
    foreign += [{"Host": host} for host in ("elsewhere.example", f"127.0.0.1.elsewhere.example:{port}", "")]
    for headers in foreign:
        assert read(service.url, page, headers=headers).status_code == 403
        for path in ("v1/models", "metrics"):
            assert requests.get(f"{service.url}/{path}", headers=headers, timeout=60).status_code == 403, headers
    chat = {"messages": picture_message(drawn_page("x"))}
    address = f"{service.url}/v1/chat/completions"
    assert requests.post(address, json=chat, headers={"Origin": "null"}, timeout=60).status_code == 403
    for headers in ({"Origin": f"http://localhost:{port}"}, {"Host": f"localhost:{port}"}):
        assert requests.get(f"{service.url}/v1/models", headers=headers, timeout=60).status_code == 200


def test_nothing_of_a_request_is_logged_or_stored(service: RunningService) -> None:
    """Uploads of several megabytes, too: a form parser would write them to a file."""
    noise = Image.effect_noise((1500, 1500), 90)
    noise.paste(drawn_page("a secret line"))
    parts = [("file", ("secret-name.png", as_file(noise))), ("file", ("secret-name.bin", b"not a page, secret-bytes"))]
    fields = {"instruction": "secret-instruction", "model": "tiny-base"}
    headers = {"X-Request-ID": "known-id", "Authorization": "Bearer secret-token"}
    good = requests.post(f"{service.url}/v1/ocr", files=parts[:1], data=fields, headers=headers, timeout=300)
    parts.append(("file", ("secret-name.pdf", b"%PDF-1.7 secret-bytes")))
    bad = requests.post(f"{service.url}/v1/ocr", files=parts, data=fields, headers=headers, timeout=300)
    assert (good.status_code, bad.status_code) == (200, 400)
    texts = [good.json()["pages"][0]["text"]]
    with OpenAI(base_url=f"{service.url}/v1", api_key="secret-token-of-chat", max_retries=0) as client:
        chat: Any = {"model": "tiny-base", "messages": picture_message(noise, text="secret-instruction")}
        texts.append(client.chat.completions.create(**chat).choices[0].message.content or "")
        chat["messages"] = picture_message(drawn_page(TEXTS[1]))
        pieces = client.chat.completions.create(**chat, stream=True)
        texts.append("".join(piece.choices[0].delta.content or "" for piece in pieces))
        chat["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,c2VjcmV0LWJ5dGVz"
        for stream in (False, True):
            with pytest.raises(APIStatusError):
                client.chat.completions.create(**chat, stream=stream)
    requests.get(f"{service.url}/secret-path", timeout=60)
    printed = service.log.read_text()
    metrics = requests.get(f"{service.url}/metrics", timeout=60).text
    assert "secret-" not in printed + metrics and max(map(len, texts)) > 8
    assert not [text for text in texts if len(text) > 3 and text in printed + metrics]
    assert len(as_file(noise)) > 1_000_000
    kept = [path for path in (service.log.parent / "scratch").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []
    lines = [json.loads(line) for line in printed.splitlines() if '"request_id"' in line]
    assert [line["status"] for line in lines if line["request_id"] == "known-id"] == [200, 400]


def test_tokens_limits_and_an_end_in_order(tmp_path: Path) -> None:
    """One service for what its settings change: starting one takes seconds."""
    tokens = tmp_path / "tokens"
    tokens.write_text("first:0123456789abcdef0123\nsecond:fedcba98765432100123\n")
    (tmp_path / "administrators").write_text("administrator-0123456789\n")
    limits = ("--max_request_bytes", "60000", "--max_pixels_per_page", "40000", "--max_pages_per_request", "20")
    few = ("--max_batch_size", "1", "--max_queued_pages", "18", "--token_file", str(tokens))
    admin = ("--admin_token_file", str(tmp_path / "administrators"))
    metrics = {"DEEPSYNTH_SERVE_METRICS_TOKEN": SCRAPER["Authorization"].removeprefix("Bearer ")}
    with running_service(tmp_path, *TOKENS, *limits, *few, *admin, variables=metrics) as service:
        _check_tokens(service)
        service.headers.update(SCRAPER)
        _check_limits(service)
        _check_sigterm(service)


def _check_tokens(service: RunningService) -> None:
    page = as_file(drawn_page("x"))
    assert read(service.url, page).status_code == 401
    assert read(service.url, page, headers={"Authorization": "Bearer 0123456789abcdef"}).status_code == 401
    assert requests.get(f"{service.url}/v1/models", timeout=60).status_code == 401
    for headers, status in ({}, 401), (KNOWN, 401), (ADMIN, 401), (SCRAPER, 200):
        assert requests.get(f"{service.url}/metrics", headers=headers, timeout=60).status_code == status
    assert read(service.url, page, headers=SCRAPER).status_code == 401, "Prometheus reads no pages"
    assert read(service.url, page, headers=KNOWN).status_code == 200
    assert read(service.url, page, headers=KNOWN | {"Origin": "https://elsewhere.example"}).status_code == 200
    basic = {"Authorization": KNOWN["Authorization"].replace("Bearer", "Basic")}
    assert read(service.url, page, headers=basic).status_code == 401
    assert read(service.url, page, headers=ADMIN).status_code == 401, "an administrator's token reads no pages"
    for headers, status in ({}, 401), (KNOWN, 401), (SCRAPER, 401), (ADMIN, 404):
        alias = requests.put(
            f"{service.url}/admin/aliases/@mine", json={"version": "none"}, headers=headers, timeout=60
        )
        assert alias.status_code == status
    webhook = requests.post(f"{service.url}/admin/mlflow-webhook", headers=ADMIN, timeout=60)
    assert (webhook.status_code, webhook.json()["error"]["code"]) == (403, "no_webhook_secret")
    for path in ("startup", "ready", "live"):
        assert requests.get(f"{service.url}/health/{path}", timeout=60).status_code == 200


def _check_limits(service: RunningService) -> None:
    page = drawn_page("x")

    def code(*files: bytes) -> str:
        return str(read(service.url, *files, headers=KNOWN).json()["error"]["code"])

    for _ in range(10):  # each answer arrives, although the client still sends when it is refused
        assert code(bytes(110_000)) == "request_too_large"
    address, body = f"{service.url}/v1/chat/completions", iter([bytes(80_000)])
    assert requests.post(address, data=body, headers=KNOWN, timeout=60).status_code == 413
    assert code(as_file(drawn_page("x", 300, 300))) == "page_too_large"
    assert code(as_file(*[Image.new("1", (28, 28))] * 21, kind="TIFF")) == "too_many_pages"
    full = read(service.url, *[as_file(page)] * 19, headers=KNOWN)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert int(full.headers["Retry-After"]) >= 1


def _check_sigterm(service: RunningService) -> None:
    children = psutil.Process(service.process.pid).children(recursive=True)
    pages = [as_file(drawn_page(text)) for text in TEXTS * 3]
    found: list[requests.Response] = []
    sender = threading.Thread()
    while not sender.is_alive() or not service.metric("deepsynth_serve_running_pages"):
        assert service.process.poll() is None
        if not sender.is_alive():  # not yet sent, or read before this process looked
            found.clear()
            sender = threading.Thread(target=lambda: found.append(read(service.url, *pages, headers=KNOWN)))
            sender.start()
    service.process.send_signal(signal.SIGTERM)
    sender.join()
    assert service.process.wait(timeout=300) == 0
    assert found[0].status_code == 200 and len(found[0].json()["pages"]) == len(pages)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert children and not alive


@pytest.mark.slow
def test_a_request_whose_time_is_over_frees_its_place(tmp_path: Path) -> None:
    with running_service(tmp_path, "--request_timeout_seconds", "0.001") as service:
        answer = read(service.url, *(as_file(drawn_page(text)) for text in TEXTS))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        while service.metric("deepsynth_serve_queued_pages") + service.metric("deepsynth_serve_running_pages"):
            assert service.process.poll() is None


def test_an_address_for_others_without_a_token_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("me:abc\n")
    for flags in (["--host", "0.0.0.0"], ["--host", "::"], ["--token_file", str(short)]):
        assert step_main("serve", ServeConfig, run, [*flags, "--port", "0"]) == 2
        said = capfd.readouterr().err
        assert len(said.splitlines()) == 1 and "token" in said and "abc" not in said
