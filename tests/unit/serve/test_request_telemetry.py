"""A request's spans and metrics as their receivers get them: an OTLP endpoint, and Prometheus' own parser."""

import base64
import json
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from components.serve.config import ServeConfig
from components.serve.observability.failure_reasons import FAILURE_REASONS
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import running_service
from tests.fixtures.span_receiver import Receiver, attributes, receiving

MANIFESTS = Path(__file__).parents[3] / "manifests" / "components"
OF_PROMETHEUS = {"job", "instance", "namespace", "pod"}
"""labels that Prometheus adds to every series of a target in Kubernetes"""
ON_THE_DASHBOARD = (
    *("requests", "request_seconds", "page_phase_seconds", "batch_rows", "queued_pages", "running_pages", "tokens"),
    *("pages", "loaded_versions", "adapter_load_seconds", "failures", "gpu_memory_bytes"),
)
WITHOUT_VALUES = {
    "deepsynth_serve_gpu_memory_bytes": {"kind"},
}
"""labels of what this service has not got: a GPU"""
CALLER = {"trace": "ab" * 16, "span": "cd" * 8}
TEXTS = ("page one", "a longer line of text", "third")
PHASES = ["queue", "prepare", "queue", "prefill", "decode"]
ERROR = 2  # opentelemetry.proto.trace.v1.Status


@dataclass(frozen=True)
class Seen:
    """What a service sent, printed and answered until its end."""

    receiver: Receiver
    log: list[dict[str, Any]]
    printed: str
    read: list[str]
    metrics: dict[str, dict[tuple[tuple[str, str], ...], float]]
    families: dict[str, str]

    def of_trace(self, trace: bytes, name: str) -> list[Any]:
        return [span for span in self.receiver.spans if span.trace_id == trace and span.name == name]

    def request(self, request_id: str) -> Any:
        (found,) = [span for span in self.receiver.spans if attributes(span).get("deepsynth.request_id") == request_id]
        return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One service for all tests: it reads three pages at once, a stream, refuses a file and ends."""
    folder = tmp_path_factory.mktemp("traced")
    with receiving() as receiver:
        variables = {"DEEPSYNTH_LOG": "json", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address}
        with running_service(folder, "--max_new_tokens", "24", variables=variables) as service:
            pages = [("file", ("secret-name.png", as_file(drawn_page(text)))) for text in TEXTS]
            given = {"traceparent": f"00-{CALLER['trace']}-{CALLER['span']}-01", "X-Request-ID": "given"}
            fields = {"instruction": "secret-instruction"}
            answer = requests.post(f"{service.url}/v1/ocr", files=pages, data=fields, headers=given, timeout=300)
            assert answer.status_code == 200, answer.text
            unsampled = {"traceparent": f"00-{'ef' * 16}-{CALLER['span']}-00", "X-Request-ID": "unsampled"}
            assert requests.post(f"{service.url}/v1/ocr", files=pages, data=fields, headers=unsampled, timeout=300).ok
            broken = [("file", ("secret-name.bin", b"secret-bytes"))]
            own = {"X-Request-ID": "broken", "traceparent": "secret-not-a-parent"}
            assert requests.post(f"{service.url}/v1/ocr", files=broken, headers=own, timeout=300).status_code == 400
            assert requests.get(f"{service.url}/secret-path", headers={"X-Request-ID": "lost"}, timeout=60).status_code
            text = requests.get(f"{service.url}/metrics", timeout=60).text
            read = [page["text"] for page in answer.json()["pages"]] + chat_and_stream(service.url)
            later = requests.get(f"{service.url}/metrics", timeout=60).text
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(timeout=300) == 0
        printed = service.log.read_text()
    metrics: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    families = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        families[family.name] = family.type
        for sample in family.samples:
            metrics[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    log = [json.loads(line) for line in printed.splitlines() if '"request_id"' in line]
    yield Seen(receiver, log, printed + text + later, read, metrics, families)


def chat_and_stream(url: str) -> list[str]:
    """Return what is read on three pages as a chat's answer, and as a stream; their instructions begin with secret-."""
    pictures = [f"data:image/png;base64,{base64.b64encode(as_file(drawn_page(text))).decode()}" for text in TEXTS]
    parts: Any = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    asked: Any = [{"role": "user", "content": [*parts, {"type": "text", "text": "secret-instruction"}]}]
    with OpenAI(base_url=f"{url}/v1", api_key="secret-token", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny-base", messages=asked).choices[0].message.content or ""
        pieces = client.chat.completions.create(model="tiny-base", messages=asked, stream=True)
        return [answer, "".join(piece.choices[0].delta.content or "" for piece in pieces)]


def test_a_request_is_below_its_callers_span_and_above_its_pages(seen: Seen) -> None:
    request = seen.request("given")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (CALLER["trace"], CALLER["span"])
    assert request.name == "POST /v1/ocr" and request.status.code != ERROR
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/ocr",
        "http.response.status_code": 200,
        "deepsynth.request_id": "given",
        "deepsynth.pages": 3,
        "deepsynth.model": "tiny-base",
    }
    pages = seen.of_trace(request.trace_id, "page")
    assert sorted(attributes(page)["deepsynth.page"] for page in pages) == [1, 2, 3]
    for page in pages:
        assert page.parent_span_id == request.span_id and attributes(page)["deepsynth.tokens"] > 0
        phases = [span for span in seen.receiver.spans if span.parent_span_id == page.span_id]
        phases.sort(key=lambda span: span.start_time_unix_nano)
        assert sorted(span.name for span in phases) == sorted(PHASES)
        for earlier, later in pairwise(phases):
            assert earlier.end_time_unix_nano <= later.start_time_unix_nano + 1000, "phases follow each other"


def test_a_batch_is_linked_with_its_pages_and_is_no_span_per_token(seen: Seen) -> None:
    pages = {page.span_id: page for page in seen.receiver.spans if page.name == "page"}
    batches = [span for span in seen.receiver.spans if span.name == "batch"]
    assert len(batches) <= 2 * len(pages), "a batch lasts from one page's coming or going to the next"
    for batch in batches:
        known = attributes(batch)
        assert batch.parent_span_id == b"" and len(batch.links) == known["deepsynth.rows"]
        assert known["deepsynth.model"] == "tiny-base" and known["deepsynth.tokens"] >= known["deepsynth.steps"] > 0
        for link in batch.links:
            back = [one.span_id for one in pages[link.span_id].links]
            assert batch.span_id in back
    first = seen.of_trace(seen.request("given").trace_id, "page")
    longer = sum(attributes(page)["deepsynth.tokens"] > 1 for page in first)  # a prefill writes the first token
    assert max(attributes(batch)["deepsynth.rows"] for batch in batches) == longer > 1, "a request's pages share steps"
    decoded = sum(attributes(page)["deepsynth.tokens"] - 1 for page in pages.values())
    assert sum(attributes(batch)["deepsynth.tokens"] for batch in batches) == decoded
    assert sum(attributes(batch)["deepsynth.steps"] for batch in batches) < decoded


def test_what_the_caller_does_not_sample_is_not_sent(seen: Seen) -> None:
    assert seen.of_trace(bytes.fromhex("ef" * 16), "page") == []
    (line,) = [line for line in seen.log if line.get("request_id") == "unsampled"]
    assert line["trace_id"] == "ef" * 16


def test_a_refused_request_has_its_reason_and_begins_a_trace(seen: Seen) -> None:
    broken, lost = seen.request("broken"), seen.request("lost")
    assert broken.parent_span_id == b"" and broken.trace_id != lost.trace_id
    assert attributes(broken)["error.type"] == "unknown_format" and broken.status.code != ERROR
    assert attributes(lost)["http.route"] == "other" and attributes(lost)["error.type"] == "not_found_error"
    assert {span.name for span in seen.receiver.spans if span.trace_id == broken.trace_id} == {
        "POST /v1/ocr",
        "open the uploads",
    }


def test_nothing_of_a_request_is_in_a_span_a_log_line_or_a_metric(seen: Seen) -> None:
    sent = "".join(str(span) for span in seen.receiver.spans)
    assert "secret-" not in sent + seen.printed and max(map(len, seen.read)) > 8
    assert not [text for text in seen.read if len(text) > 3 and text in sent + seen.printed]
    assert not any(event for span in seen.receiver.spans for event in span.events)


def test_log_lines_of_a_request_name_it_and_its_span(seen: Seen) -> None:
    for request_id in ("given", "broken", "lost"):
        (line,) = [line for line in seen.log if line.get("request_id") == request_id]
        span = seen.request(request_id)
        assert (line["trace_id"], line["span_id"]) == (span.trace_id.hex(), span.span_id.hex())
    assert [line["failure"] for line in seen.log if line.get("request_id") == "broken"] == ["unknown_format"]


def test_the_metrics_count_what_happened(seen: Seen) -> None:
    def value(name: str, **labels: str) -> float:
        return seen.metrics[f"deepsynth_serve_{name}"][tuple(sorted(labels.items()))]

    assert value("requests_total", route="/v1/ocr", status="200") == 2
    assert value("requests_total", route="other", status="404") == 1
    assert value("pages_total", model="tiny-base") == 6
    for phase in ("queue", "prepare", "prefill", "decode"):
        assert value("page_phase_seconds_count", phase=phase) == 6
        assert value("page_phase_seconds_bucket", phase=phase, le="+Inf") == 6
    first = seen.of_trace(seen.request("given").trace_id, "page")
    traced = [attributes(span)["deepsynth.tokens"] for span in first]
    assert value("tokens_total", model="tiny-base") == 2 * sum(traced), "both requests had the same pages"
    assert value("prompt_tokens_total", model="tiny-base") > 0
    assert value("batch_rows_count") > 0 and value("batch_rows_bucket", le="1.0") < value("batch_rows_count")
    assert (value("queued_pages"), value("running_pages"), value("loaded_versions")) == (0, 0, 1)
    assert value("failures_total", reason="unknown_format") == value("failures_total", reason="not_found_error") == 1
    reasons = {dict(labels)["reason"] for labels in seen.metrics["deepsynth_serve_failures_total"]}
    assert reasons == FAILURE_REASONS.keys(), "each is there from the start"
    assert value("adapter_load_seconds_count") == 0
    edges = {float(dict(labels)["le"]) for labels in seen.metrics["deepsynth_serve_request_seconds_bucket"]}
    beyond = sorted(edge for edge in edges if edge > ServeConfig().request_timeout_seconds)
    assert len(beyond) > 1 and beyond[0] <= 1.5 * ServeConfig().request_timeout_seconds, "timeouts are in a bucket"
    assert seen.metrics["process_resident_memory_bytes"][()] > 0


def labels_of(seen: Seen, metric: str) -> set[str]:
    """Return a metric's labels; it fails if /metrics has no such metric."""
    family = re.sub(r"_(bucket|sum|count)$", "", metric)
    kind = seen.families.get(metric) or seen.families.get(metric.removesuffix("_total")) or seen.families.get(family)
    assert kind, f"/metrics has no {metric}"
    assert (kind == "histogram") == (family != metric) and (kind == "counter") == metric.endswith("_total"), metric
    series = [dict(labels) for labels in seen.metrics.get(metric, {})]
    assert series or metric in WITHOUT_VALUES, f"{metric} has no value"
    return {label for one in series for label in one} | WITHOUT_VALUES.get(metric, set())


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(seen: Seen) -> None:
    dashboard = json.loads((MANIFESTS / "page-service-dashboard" / "page-service.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 20
    asked = set()
    for target in targets:
        query = target["expr"]
        metrics = re.findall(r"([a-z_]+)\{", query)
        assert metrics, query
        asked |= set(metrics)
        known = set().union(*(labels_of(seen, metric) for metric in metrics)) | OF_PROMETHEUS
        grouped = {
            name.strip() for names in re.findall(r"(?:by|ignoring) \(([^)]*)\)", query) for name in names.split(",")
        }
        chosen = set(re.findall(r"[{,]([a-z_]+)(?:=~|!~|!=|=)\"", query))
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert grouped | chosen | shown <= known, query
        assert shown <= grouped or not grouped - {"le"}, query
    shown_metrics = {re.sub(r"_(bucket|sum|count)$", "", name).removesuffix("_total") for name in asked}
    assert {f"deepsynth_serve_{name}" for name in ON_THE_DASHBOARD} <= shown_metrics
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    for query in variables:
        labels_of(seen, re.findall(r"label_values\(([a-z_]+)", query)[0])


def test_the_autoscaler_asks_for_a_metric_that_there_is(seen: Seen) -> None:
    scaler = yaml.safe_load((MANIFESTS / "page-service-autoscaling" / "horizontal-pod-autoscaler.yaml").read_text())
    (metric,) = scaler["spec"]["metrics"]
    labels_of(seen, metric["pods"]["metric"]["name"])
    patches = yaml.safe_load((MANIFESTS / "page-service-kserve-keda" / "queue.yaml").read_text())
    (scaling,) = [patch["value"] for patch in patches if patch["path"].endswith("/autoScaling")]
    query = scaling["metrics"][0]["external"]["metric"]["query"]
    (name,) = re.findall(r"([a-z_]+)\{", query)
    assert set(re.findall(r"[{,]([a-z_]+)=", query)) <= labels_of(seen, name) | OF_PROMETHEUS
