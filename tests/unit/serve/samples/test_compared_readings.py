"""Champion and challenger on the same pages: read by both in a service, and compared by `deepsynth samples compare`."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from components.serve.adapters.request_shares import position_of
from components.serve.samples.audit import Audit
from components.serve.samples.objects import objects_at
from components.serve.samples.store import SampleStore
from components.serve.samples.stored_reading import Role
from tests.fixtures.cluster_command import Shell
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.evaluated_package import OF_LINES, make_package
from tests.fixtures.service_process import running_service
from tests.fixtures.serving_adapters import save_adapter
from tests.fixtures.stored_samples import sample, write_settings

ADMIN = {"Authorization": "Bearer the-administrators-token"}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def test_the_comparison_is_that_of_the_stored_readings(shell: Shell, tmp_path: Path) -> None:
    place = str(tmp_path / "store")
    settings = str(write_settings(tmp_path, place))
    store = SampleStore(objects_at(place), Audit(tmp_path / "audit.jsonl"))

    def add(request_id: str, page: int, role: Role, text: str, model: str, mean_logprob: float = -1.0) -> None:
        reading, picture = sample(request_id, f"{request_id} {page}", page, 1, role, mean_logprob)
        changed = {"text": text, "model": model, "stored_at": stored_at}
        store.add(reading.model_copy(update=changed), picture)

    stored_at = sample("x", "x")[0].stored_at
    for request_id, page, texts in (
        ("a", 1, ("four", "foul")),
        ("a", 2, ("equal", "equal")),
        ("b", 1, ("x y", "x  y")),
    ):
        add(request_id, page, "champion", texts[0], "reader-1")
        add(request_id, page, "challenger", texts[1], "reader-2", -0.25)
    add("c", 1, "challenger", "alone", "reader-2")
    add("d", 1, "answer", "no canary", "reader-1")
    add("e", 1, "champion", "", "reader-2")
    add("e", 1, "challenger", "more", "reader-3")

    answer = shell("samples", "compare", "--json", "--config", settings)
    first, second = [json.loads(line) for line in answer.out.splitlines()]
    assert (first["champion"], first["challenger"]) == ("reader-1", "reader-2")
    assert (first["pages"], first["requests"], first["equal_pages"]) == (3, 2, 2)
    assert first["cer"] == pytest.approx(1 / 12), "one edit in four, five and three characters"
    assert first["cer_interval"] == pytest.approx([0, 1 / 9]), "of two requests: none, or twice the one with the edit"
    assert first["mean_logprob_difference"] == pytest.approx(0.75)
    assert first["mean_logprob_difference_interval"] == pytest.approx([0.75, 0.75])
    assert (second["challenger"], second["cer"], second["cer_interval"]) == ("reader-3", None, None)
    shown = shell("samples", "compare", "--config", settings).out
    assert "CER between the readings      0.0833 (95 % interval 0.0000 to 0.1111)" in shown
    assert "1 more pages have one reading only" in shown
    audit = (tmp_path / "audit.jsonl").read_text()
    assert audit.count('"action": "read"') >= 8 and "foul" not in audit


def _check_probability(page: dict[str, Any], calibrated: bool) -> None:
    """A package with calibrations gives the probabilities of its maps for a whole answer; the base has none."""
    lines = [(line, 2.0, -1.0) for line in page["lines"]]
    for confidence, slope, intercept in ((page["confidence"], 0.5, 1.0), *lines):
        assert ("probability" in confidence) == ("cer_at_most" in confidence) == calibrated
        if calibrated:
            expected = 1 / (1 + math.exp(-(slope * confidence["mean_logprob"] + intercept)))
            assert confidence["probability"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_both_versions_read_the_shared_pages_and_the_answer_is_the_challengers(shell: Shell, tmp_path: Path) -> None:
    place = tmp_path / "store"
    settings = write_settings(tmp_path, str(place), challenger_share=0.5)
    adapter = make_package(save_adapter(tmp_path / "adapter-1", 1), "tiny-base", line_calibration=OF_LINES)
    flags = ("--config", str(settings), "--adapters", str(adapter), "--max_new_tokens", "24")
    variables = {"DEEPSYNTH_SERVE_ADMIN_TOKEN": "the-administrators-token"}
    texts: dict[tuple[str, str], str] = {}
    seen: set[tuple[str, bool]] = set()
    with running_service(tmp_path, *flags, variables=variables) as service:
        for alias, version in (("@champion", "tiny-base"), ("@challenger", "adapter-1")):
            address = f"{service.url}/admin/aliases/{alias}"
            assert requests.put(address, json={"version": version}, headers=ADMIN, timeout=60).status_code == 200
        ids = [f"request-{number}" for number in range(12)]
        shared = [one for one in ids if position_of(one) < 0.5]
        assert 2 < len(shared) < 10
        for one in ids:
            files, headers = {"file": as_file(drawn_page(one))}, {"X-Request-ID": one}
            for model in ("@champion", "tiny-base", "adapter-1") if one in shared else ("@champion",):
                given = headers if model == "@champion" else {}
                answer = requests.post(
                    f"{service.url}/v1/ocr", files=files, data={"model": model}, headers=given, timeout=300
                )
                if model == "@champion":
                    assert answer.json()["model"] == ("adapter-1" if one in shared else "tiny-base")
                else:
                    read = answer.json()["pages"][0]
                    texts[one, model] = read["text"]
                    whole = not read["truncated"]
                    _check_probability(read, calibrated=model == "adapter-1" and whole)
                    seen.add((model, whole))
        assert {("adapter-1", True), ("adapter-1", False)} <= seen, "whole and cut-off answers"
        names = {"champion": "tiny-base", "challenger": "adapter-1"}
        expected = {(one, role) for one in shared for role in names}
        deadline = time.monotonic() + 300
        while True:
            keys = SampleStore(objects_at(str(place)), Audit(tmp_path / "own.jsonl")).listed("test")
            if expected <= {(key.request_id, key.role) for key in keys}:
                break
            assert service.process.poll() is None and time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.05)
        assert {key.role for key in keys if key.request_id in set(ids) - set(shared)} == {"answer"}
    store = SampleStore(objects_at(str(place)), Audit(tmp_path / "own.jsonl"))
    for key in keys:
        if key.role in names:
            reading = store.reading(key, "test")
            assert reading and reading.model == names[key.role]
            assert reading.text == texts[key.request_id, reading.model]
    (found,) = shell("samples", "compare", "--json", "--config", str(settings)).out.splitlines()
    assert json.loads(found)["pages"] == len(shared)
