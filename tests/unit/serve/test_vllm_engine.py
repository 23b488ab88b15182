"""The engine ``vllm`` in front of a stand-in that is as strict about requests as vLLM's server.

``test_real_vllm.py`` has the same with vLLM itself.
"""

import http.client
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from openai import OpenAI

from components.serve.config import ServeConfig
from components.serve.step import run
from components.serve.vllm.command import NO_REPEAT_PROCESSOR
from components.serve.vllm.prompts import ModelInVllm, PageWish, Prompts
from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.programs.step_command import step_main
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.shared.vllm.served_families import SERVED_FAMILIES
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.evaluated_package import make_package
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.span_receiver import receiving
from tests.fixtures.vllm_server import recorded, running_stand_in, runs, small_adapter, stand_in_variables, wait_for
from tests.unit.serve.test_service import picture_message

ADMIN = {"Authorization": "Bearer the-administrators-token"}
KEY = "the-key-of-a-server-elsewhere"
PAGE = as_file(drawn_page("page one"))
WORDS = "quote a page's secret words"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[RunningService]:
    python = Path(sys.executable)
    save_tiny_deepseek_ocr2(base := folder / "tiny-base")
    settings = ["--engine", "vllm", "--vllm_python", str(python), "--model", str(base), "--no_repeat_ngram_size", "20"]
    settings += ["--no_repeat_ngram_window", "90", "--max_new_tokens", "64", "--max_batch_size", "3"]
    variables = stand_in_variables(folder) | {"DEEPSYNTH_SERVE_ADMIN_TOKEN": ADMIN["Authorization"].split()[1]}
    with receiving() as receiver:
        variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address}
        with running_service(folder, *settings, variables=variables) as running:
            yield running


def read(service: RunningService, page: bytes = PAGE, **fields: str) -> requests.Response:
    return requests.post(f"{service.url}/v1/ocr", files={"file": page}, data=fields, timeout=300)


def text_of(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["pages"][0]["text"])


def admin(service: RunningService, method: str, path: str, content: Any = None) -> requests.Response:
    return requests.request(method, f"{service.url}/admin/{path}", json=content, headers=ADMIN, timeout=300)


def test_a_page_comes_back_with_confidence_lines_and_the_prompt_of_training(
    service: RunningService, folder: Path
) -> None:
    page = read(service).json()["pages"][0]
    first, second = page["text"].split("\n")
    assert first == "page 280x56" and second.endswith("by the base")
    assert [line["text"] for line in page["lines"]] == [first, second]
    assert page["confidence"]["min_logprob"] <= min(line["min_logprob"] for line in page["lines"]) < 0
    assert page["tokens"] == len(page["text"]) + 1 and not page["truncated"] and not page["loop"]
    assert set(page["seconds"]) == {"queue", "prepare", "prefill", "decode"}
    assert not [name for name in recorded(folder, "started")[0]["names"] if name.startswith("DEEPSYNTH_SERVE")], (
        "tokens are not passed on"
    )
    asked = recorded(folder, "read")[-1]
    assert asked["prompt"] == "<image>\nFree OCR."
    assert asked["temperature"] == 0 and asked["logprobs"] and asked["max_completion_tokens"] == 64
    assert asked["vllm_xargs"] == {"ngram_size": 20, "window_size": 90}
    assert not recorded(folder, "invalid")


def test_streams_and_short_answers(service: RunningService) -> None:
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        message = picture_message(drawn_page("page one"))
        whole = client.chat.completions.create(model="tiny-base", messages=message)
        stream = client.chat.completions.create(model="tiny-base", messages=message, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert len([piece for piece in pieces if piece]) > 10, "the text comes in pieces"
        short = client.chat.completions.create(model="tiny-base", messages=message, max_tokens=7)
        assert short.choices[0].finish_reason == "length" and short.usage
        assert short.usage.completion_tokens == 7 and short.usage.prompt_tokens == 10


def test_line_ends_of_unicode_are_text_and_end_no_event(service: RunningService) -> None:
    """vLLM sends them as they are; httpx and requests split a stream's text at them, so this service escapes them."""
    whole = text_of(read(service, instruction="line ends"))
    assert whole.endswith(" \u4e66") and "a\u2028b\u2029c\u0085d\x0be\x1cf" in whole
    message = picture_message(drawn_page("page one"), text="line ends")
    body = {"messages": message, "stream": True}
    with requests.post(f"{service.url}/v1/chat/completions", json=body, stream=True, timeout=300) as answer:
        lines = [line for line in answer.iter_lines(decode_unicode=True) if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole


def test_vllms_spans_are_below_the_pages(service: RunningService, folder: Path) -> None:
    trace, caller = "ab" * 16, "cd" * 8
    headers = {"traceparent": f"00-{trace}-{caller}-01"}
    answer = requests.post(f"{service.url}/v1/ocr", files={"file": PAGE}, headers=headers, timeout=300)
    assert answer.status_code == 200, answer.text
    version, of_trace, parent, sampled = recorded(folder, "read")[-1]["traceparent"].split("-")
    assert (version, of_trace, sampled) == ("00", trace, "01")
    assert parent not in (caller, "0" * 16), "the page's own span"


def test_adapters_are_loaded_proved_swapped_and_unloaded(service: RunningService, folder: Path) -> None:
    good = small_adapter(folder / "good")
    assert admin(service, "POST", "models", {"source": str(good)}).json()["version"] == "good"
    assert text_of(read(service, model="good")).endswith("by good")
    assert text_of(read(service)).endswith("by the base")

    vision = small_adapter(folder / "vision", module="model.vision_tower.layers.0.self_attn.q_proj")
    refused = admin(service, "POST", "models", {"source": str(vision)})
    assert refused.status_code == 400 and "vision_tower.layers.0.self_attn.q_proj" in refused.text
    assert "DeepseekOCR2ForCausalLM does not adapt" in refused.text, "before vLLM is asked"
    unknown = small_adapter(folder / "unknown", module="model.language_model.layers.99.self_attn.q_proj")
    refused = admin(service, "POST", "models", {"source": str(unknown)})
    assert refused.status_code == 400 and "does not use this adapter" in refused.json()["error"]["message"]
    assert recorded(folder, "unloaded")[-1]["name"] == "unknown"
    package = small_adapter(folder / "package", module="vision.blocks.0.q_proj")
    small_adapter(package / "vllm")
    assert admin(service, "POST", "models", {"source": str(package)}).status_code == 200
    assert text_of(read(service, model=package.parent.name)).endswith("by vllm")
    wide = small_adapter(folder / "wide", r=128)
    refused = admin(service, "POST", "models", {"source": str(wide)})
    assert refused.status_code == 400 and "rank 128" in refused.json()["error"]["message"]

    assert admin(service, "PUT", "aliases/@champion", {"version": "tiny-base"}).status_code == 200
    assert admin(service, "PUT", "aliases/@champion", {"version": "good"}).status_code == 200
    assert text_of(read(service, model="@champion")).endswith("by good")
    assert admin(service, "POST", "aliases/@champion/rollback").json()["version"] == "tiny-base"
    assert text_of(read(service, model="@champion")).endswith("by the base")
    broken = small_adapter(folder / "broken")
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    refused = admin(service, "POST", "models", {"source": str(broken)})
    assert refused.status_code == 400 and "cannot be read" in refused.json()["error"]["message"]
    for content in ("[]", "[" * 100_000):
        (small_adapter(folder / "broken") / "adapter_config.json").write_text(content)
        refused = admin(service, "POST", "models", {"source": str(broken)})
        assert refused.status_code == 400, refused.text
    other = small_adapter(folder / "other")
    assert admin(service, "POST", "models", {"source": str(other)}).status_code == 200
    assert admin(service, "DELETE", "models/other").status_code == 200
    assert recorded(folder, "unloaded")[-1]["name"] == "other"
    assert read(service, model="other").status_code == 404


def test_an_adapter_that_vllm_does_not_unload_stays_as_it_is(service: RunningService, folder: Path) -> None:
    stubborn = small_adapter(folder / "stubborn")
    assert admin(service, "POST", "models", {"source": str(stubborn)}).status_code == 200
    refused = admin(service, "DELETE", "models/stubborn")
    assert refused.status_code == 409 and "does not unload it" in refused.text
    assert text_of(read(service, model="stubborn")).endswith("by stubborn")
    assert admin(service, "DELETE", "models/stubborn").status_code == 200
    assert read(service, model="stubborn").status_code == 404


def test_a_package_is_read_with_its_own_prompt_and_limit(service: RunningService, folder: Path) -> None:
    package = make_package(small_adapter(folder / "summaries"), str(folder / "tiny-base"), "Summarize it.")
    assert admin(service, "POST", "models", {"source": str(package)}).status_code == 200
    probes = [asked["prompt"] for asked in recorded(folder, "read") if asked["model"] == "summaries"]
    assert set(probes) == {"<image>\nFree OCR."}, "the proof asks the base and the adapter alike"
    for name, limit in (("summaries", 64), ("tiny-base", 64)):  # the service's setting is stronger than the package's
        text_of(read(service, model=name))
        asked = recorded(folder, "read")[-1]
        assert asked["max_completion_tokens"] == limit
        assert asked["prompt"] == ("<image>\nSummarize it." if name == "summaries" else "<image>\nFree OCR.")
    confidence = read(service, model="summaries").json()["pages"][0]["confidence"]
    assert "probability" not in confidence, "the service's rule against repetitions is not that of the evaluation"
    assert "summaries is not read as it was evaluated" in service.log.read_text()
    ruled: dict[str, Any] = {"no_repeat_ngrams": {"size": 20, "window": 90, "allowed": []}}
    ruled |= {"image_options": SERVED_FAMILIES["deepseek_ocr2"].image_options()}
    package = make_package(small_adapter(folder / "ruled"), str(folder / "tiny-base"), "Summarize it.", **ruled)
    assert admin(service, "POST", "models", {"source": str(package)}).status_code == 200
    for text, is_calibrated in (("", True), ("Summarize it.", True), ("Something else.", False)):
        confidence = read(service, model="ruled", instruction=text).json()["pages"][0]["confidence"]
        assert ("probability" in confidence) == is_calibrated, text


def test_an_adapter_written_anew_is_read_with_after_it_is_loaded_again(service: RunningService, folder: Path) -> None:
    """Neither the prefix cache nor a folder that somebody writes to mixes two adapters of one name."""
    source = {"source": str(rewritten := small_adapter(folder / "rewritten", label="first"))}
    assert admin(service, "POST", "models", source).status_code == 200
    assert text_of(read(service, model="rewritten")).endswith("by first")
    assert recorded(folder, "read")[-1]["cache_salt"]
    small_adapter(rewritten, label="second")
    assert text_of(read(service, model="rewritten")).endswith("by first")
    assert admin(service, "DELETE", "models/rewritten").status_code == 200
    assert admin(service, "POST", "models", source).status_code == 200
    assert text_of(read(service, model="rewritten")).endswith("by second")
    small_adapter(rewritten, label="third")
    assert text_of(read(service)).endswith("by the base")
    assert "cache_salt" not in recorded(folder, "read")[-1]


def test_what_a_server_quotes_in_a_traceback_is_not_logged(service: RunningService) -> None:
    assert read(service, instruction=WORDS).status_code == 200
    wait_for(lambda: "vllm: ValueError" in service.log.read_text(), "the kind of the error is logged")
    assert "the stand-in starts" in service.log.read_text()
    assert "another prompt" not in service.log.read_text()
    assert "secret words" not in service.log.read_text()


def test_a_client_that_leaves_without_its_answer_ends_its_page_in_vllm(service: RunningService, folder: Path) -> None:
    reads, aborts = (len(recorded(folder, event)) for event in ("read", "aborted"))
    address = urlsplit(service.url)
    body = requests.Request("POST", f"{service.url}/v1/ocr", files={"file": PAGE}, data={"instruction": "endless"})
    sent = body.prepare()
    client = http.client.HTTPConnection(str(address.hostname), address.port)
    client.request("POST", "/v1/ocr", sent.body, dict(sent.headers))
    wait_for(lambda: len(recorded(folder, "read")) > reads, "the page is not read")
    client.close()
    wait_for(lambda: len(recorded(folder, "aborted")) > aborts, "vLLM is not told")
    wait_for(lambda: service.metric("deepsynth_serve_running_pages") == 0, "the place is not free again")


def test_a_stream_that_is_closed_ends_its_page_in_vllm(service: RunningService, folder: Path) -> None:
    before = len(recorded(folder, "aborted"))
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        message = picture_message(drawn_page("page one"), text="endless")
        stream = client.chat.completions.create(model="tiny-base", messages=message, stream=True)
        assert any(chunk.choices[0].delta.content for chunk in stream if chunk.choices)
        stream.close()
    wait_for(lambda: len(recorded(folder, "aborted")) > before, "vLLM is not told")
    wait_for(lambda: service.metric("deepsynth_serve_running_pages") == 0, "the place is not free again")


def test_a_killed_server_is_started_again_with_its_adapters(service: RunningService, folder: Path) -> None:
    found: list[requests.Response] = []
    reading = threading.Thread(target=lambda: found.append(read(service, instruction="endless")))
    before = len(recorded(folder, "read"))
    reading.start()
    wait_for(lambda: len(recorded(folder, "read")) > before, "the page is not read")
    started = recorded(folder, "started")[-1]
    os.kill(started["pid"], signal.SIGKILL)
    reading.join()
    assert (found[0].status_code, found[0].json()["error"]["code"]) == (503, "engine_down")
    assert "Retry-After" in found[0].headers
    wait_for(lambda: service.metric("deepsynth_serve_engine_losses_total") == 1, "the end is not noticed")
    while (ready := requests.get(f"{service.url}/health/ready", timeout=60)).status_code != 200:
        assert "vLLM" in ready.json()["status"]
        assert requests.get(f"{service.url}/health/live", timeout=60).status_code == 200
        refused = read(service)
        assert refused.status_code in (503, 200)
    assert text_of(read(service, model="good")).endswith("by good")
    assert text_of(read(service, model="rewritten")).endswith("by second"), "what was proved, not the folder of now"
    assert len(recorded(folder, "started")) == 2
    assert service.metric("deepsynth_serve_engine_recovery_seconds_count") == 1
    assert "reads pages again" in service.log.read_text()
    assert not runs(started["engine"])


def test_a_killed_service_takes_the_server_and_its_engine_along(service: RunningService, folder: Path) -> None:
    started = recorded(folder, "started")[-1]
    assert runs(started["pid"]) and runs(started["engine"])
    service.process.kill()
    wait_for(lambda: not runs(started["pid"]) and not runs(started["engine"]), "a process is left")


@pytest.mark.slow
def test_a_server_that_ends_before_it_has_read_a_page_is_not_started_for_ever(folder: Path) -> None:
    """Each life ends with the first page, so none is productive, and after the last one the service is not alive."""
    place = folder / "short-lived"
    save_tiny_deepseek_ocr2(base := place / "tiny-base")
    rule = {"no_repeat_ngrams": {"size": 20, "window": 90, "allowed": []}}
    package = make_package(small_adapter(place / "ruled"), str(base), **rule)
    settings = ["--engine", "vllm", "--vllm_python", sys.executable, "--vllm_restarts", "1"]
    settings += ["--model", str(base), "--adapters", str(package)]
    with running_service(place, *settings, variables=stand_in_variables(place)) as short_lived:
        for lives in (1, 2):
            assert read(short_lived, instruction="die").status_code == 503
            wait_for(lambda: len(recorded(place, "started")) == 2, f"{lives} lives")
            if lives == 1:
                short_lived.wait_until_ready()
            arguments = recorded(place, "started")[-1]["arguments"]
            assert NO_REPEAT_PROCESSOR in arguments, "for the package's rule against repetitions"

        def is_dead() -> bool:
            with suppress(requests.ConnectionError):
                return requests.get(f"{short_lived.url}/health/live", timeout=60).status_code == 503
            return True

        wait_for(is_dead, "liveness does not fail")
        assert "exit code 3" in short_lived.log.read_text()


@pytest.mark.slow
def test_a_server_elsewhere_is_used_with_its_key_and_its_own_prompt(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    key_file = elsewhere / "key"
    key_file.write_text(f"{KEY}\n")
    with running_stand_in(elsewhere, "--served-model-name", "their-name", key=KEY) as address:
        given = ["--engine", "vllm", "--vllm_address", address, "--port", "0"]

        def refusal(*settings: str) -> str:
            assert step_main("serve", ServeConfig, run, [*given, *settings]) == 2
            return capfd.readouterr().err

        assert "refuses the key" in refusal()
        monkeypatch.setenv("DEEPSYNTH_VLLM_TOKEN", KEY)
        assert "NGramPerReqLogitsProcessor" in refusal("--no_repeat_ngram_size", "20")
        assert "fine" not in refusal("--vllm_token_file", str(elsewhere / "none"))
        monkeypatch.delenv("DEEPSYNTH_VLLM_TOKEN")
        settings = [*given[:4], "--vllm_token_file", str(key_file)]
        with running_service(elsewhere, *settings) as service:
            assert text_of(read(service)).endswith("by the base")
            assert requests.get(f"{service.url}/v1/models", timeout=60).json()["data"][0]["id"] == "tiny-base"
            assert "makes another prompt" in service.log.read_text()
        assert recorded(elsewhere, "read")[-1]["prompt"] == "<picture>OCR:"
        assert not recorded(elsewhere, "invalid")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, 1.0),
        ({"repetition_penalty": 1.05, "temperature": 0.1, "do_sample": True}, 1.05),
        ({"no_repeat_ngram_size": 3, "min_length": 0}, "no_repeat_ngram_size 3"),
        ({"bad_words_ids": [[5]], "stop_strings": ["x"]}, "bad_words_ids.*stop_strings"),
    ],
)
def test_vllm_is_told_what_the_bases_generation_config_asks_for(
    asked: dict[str, Any], said: float | str, tmp_path: Path
) -> None:
    """The evaluation obeys the file, so vLLM has to do the same, or is refused."""
    base = Path(shutil.copytree(base_model_location("tiny-base"), tmp_path / "base"))
    file = base / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | asked))
    config = ServeConfig(engine="vllm", vllm_address="http://127.0.0.1:1", model=str(base))
    if isinstance(said, str):
        with pytest.raises(UserError, match=f"{said}.*which vLLM does not do"):
            Prompts(config, True)
        return
    prompts, page = Prompts(config, whole_prompts=True), PageWish(drawn_page("page one"), None, 8, followed=False)
    wish = prompts.request(ModelInVllm("base"), page)
    assert (wish["repetition_penalty"], wish["temperature"]) == (said, 0.0)
    rule = {"no_repeat_ngrams": {"size": 3, "window": None, "allowed": [7]}}
    reading = prompts.reading_of(make_package(tmp_path, str(base), "Summarize it.", max_new_tokens=20, **rule))
    wish = prompts.request(ModelInVllm("version", "salt", reading), page)
    assert wish["vllm_xargs"] == {"ngram_size": 3, "window_size": 8, "whitelist_token_ids": [7]}
    assert "Summarize it." in wish["messages"][0]["content"][1]["text"] and reading.max_new_tokens == 20
    assert bool(reading.differs) == (said != 1.0), "vLLM's confidences are those before a penalty"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--engine", "vllm", "--vllm_address", "127.0.0.1:8001"], "vllm_address"),
        (["--engine", "vllm"], "either vllm_python or vllm_address"),
        (["--vllm_address", "http://127.0.0.1:1"], "needs engine vllm"),
        (["--engine", "vllm", "--vllm_python", "/no/such/python"], "no program"),
        (["--engine", "vllm", "--vllm_address", "http://127.0.0.1:1", "--no-crop_mode"], "vLLM has no crop_mode"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert step_main("serve", ServeConfig, run, ["--port", "0", *settings]) == 2
    assert said in capfd.readouterr().err
