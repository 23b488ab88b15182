"""A real Prometheus scrapes a service over mTLS as the ServiceMonitor says, and answers what the manifests ask."""

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.fixtures.certificates import Authority
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.mlflow_server import free_port
from tests.fixtures.rendered_manifests import ROOT, copy_of_manifests, rendered
from tests.fixtures.service_process import RunningService, running_service

PROMETHEUS, PROMTOOL = (shutil.which(name) for name in ("prometheus", "promtool"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROMETHEUS and PROMTOOL), reason="no Prometheus: apt-get install prometheus"),
]
COMPONENTS = ROOT / "manifests" / "components"
KUSTOMIZATION = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../overlays/production]
components: [{components}]
"""
ON_TOP = ("page-service", "page-service-monitoring", "page-service-tls", "page-service-mtls")
POD = {"namespace": "deepsynth", "pod": "page-service-7"}
TOKEN, READER = "the-metrics-token-0123456789", "a-reader-token-0123456789"
SECONDS = 300
NOT_HERE = "deepsynth_serve_gpu_memory_bytes"
MOVING = ("pages_total", "tokens_total", "request_seconds_bucket", "page_phase_seconds_bucket", "samples_total")
"""metrics whose rate is above 0 while pages are read"""


@dataclass(frozen=True)
class Scraped:
    """A service that Prometheus scrapes, a client that it knows, and Prometheus' address."""

    service: RunningService
    client: requests.Session
    prometheus: str

    def read_a_page(self) -> None:
        """Have the service read a page, whose answer is cut off, and refuse a file; it counts all of it."""
        for file, status in ((as_file(drawn_page("a page")), 200), (b"no picture", 400)):
            answer = self.client.post(f"{self.service.url}/v1/ocr", files={"file": file}, timeout=SECONDS)
            assert answer.status_code == status, answer.text

    def ask(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=60).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]

    def until(self, answered: str, *queries: str) -> None:
        """Read pages until each query has the answer; fail with those that have not after minutes."""
        deadline, open_ones = time.monotonic() + SECONDS, set(queries)
        while open_ones:
            assert time.monotonic() < deadline, f"{answered}: {open_ones}; {self.ask('targets')['activeTargets']}"
            self.read_a_page()
            for query in list(open_ones):
                values = self.values(query)
                if any(value > 0 for value in values) if answered == "above 0" else values:
                    open_ones.remove(query)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder, authority = tmp_path_factory.mktemp("scraped"), Authority()
    secrets = {
        "page-service-tls": authority.signed("page-service.deepsynth.svc"),
        "page-service-probe-tls": authority.signed("probe"),
        "page-service-tokens": {"metrics": TOKEN.encode()},
    }
    for name, files in secrets.items():
        (folder / name).mkdir()
        for key, content in files.items():
            (folder / name / key).write_bytes(content)
    (folder / "clients").write_text(f"reader:{READER}\n")
    tls, probe = folder / "page-service-tls", folder / "page-service-probe-tls"
    flags = ["--tls_certificate", str(tls / "tls.crt"), "--tls_key", str(tls / "tls.key")]
    flags += ["--tls_client_ca", str(tls / "ca.crt"), "--token_file", str(folder / "clients"), "--max_new_tokens", "4"]
    flags += ["--samples.allowed", "--samples.store", str(folder / "samples"), "--samples.share", "1"]
    flags += ["--samples.retention_days", "1", "--samples.audit_file", str(folder / "audit.jsonl")]
    with (
        running_service(folder, *flags, variables={"DEEPSYNTH_SERVE_METRICS_TOKEN": TOKEN}, ready=False) as service,
        requests.Session() as client,
    ):
        client.trust_env = False
        client.verify, client.cert = str(tls / "ca.crt"), (str(probe / "tls.crt"), str(probe / "tls.key"))
        client.headers["Authorization"] = f"Bearer {READER}"
        while client.get(f"{service.url}/health/ready", timeout=60).status_code != 200:
            assert service.process.poll() is None, service.log.read_text()
            time.sleep(0.05)
        with _prometheus(folder, service.url) as address:
            yield Scraped(service, client, address)


@contextmanager
def _prometheus(folder: Path, service: str) -> Iterator[str]:
    """Run Prometheus with the ServiceMonitor's endpoint as its only job, and yield its address."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(folder, service)))
    subprocess.run([str(PROMTOOL), "check", "config", folder / "prometheus.yml"], check=True, timeout=SECONDS)
    address = f"127.0.0.1:{free_port()}"
    command = [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={folder / 'series'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        deadline = time.monotonic() + SECONDS
        while not _ready(address):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _ready(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/-/ready", timeout=60).status_code == 200
    except requests.ConnectionError:
        return False


def _configuration(folder: Path, service: str) -> dict[str, Any]:
    """Write Prometheus' configuration as its operator does from the ServiceMonitor; Secrets are files of ``folder``."""
    manifests = copy_of_manifests(folder / "kustomize")
    (manifests / "pages").mkdir()
    listed = ", ".join(f"../components/{name}" for name in ON_TOP)
    (manifests / "pages" / "kustomization.yaml").write_text(KUSTOMIZATION.format(components=listed))
    (monitor,) = [one for one in rendered(manifests / "pages") if one["kind"] == "ServiceMonitor"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scheme", "authorization", "tlsConfig"}

    def file(reference: dict[str, str]) -> str:
        return str(folder / reference["name"] / reference["key"])

    tls = endpoint["tlsConfig"]
    job = {
        "job_name": "page-service",
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "authorization": {"credentials_file": file(endpoint["authorization"]["credentials"])},
        "tls_config": {
            "server_name": tls["serverName"],
            "ca_file": file(tls["ca"]["secret"]),
            "cert_file": file(tls["cert"]["secret"]),
            "key_file": file(tls["keySecret"]),
        },
        "static_configs": [{"targets": [service.rpartition("/")[2]], "labels": POD}],
    }
    # The operator's 15 s would only make the test longer.
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}


def test_every_query_of_the_dashboard_has_an_answer(scraped: Scraped) -> None:
    dashboard = json.loads((COMPONENTS / "page-service-dashboard" / "page-service.json").read_text())
    queries = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    assert len(queries) > 20
    given = {"$__rate_interval": "1m", "$job": "page-service", "$instance": ".*"}
    filled = set()
    for query in queries:
        for variable, value in given.items():
            query = query.replace(variable, value)
        assert "$" not in query
        scraped.values(query)  # Prometheus can parse it
        if NOT_HERE not in query:
            filled.add(query)
    scraped.until("an answer", *filled)
    moving = {query for query in filled if any(name in query for name in MOVING) and "status=~" not in query}
    scraped.until("above 0", *moving)
    for query in filled - moving:
        assert all(math.isnan(value) or value >= 0 for value in scraped.values(query))


def test_the_dashboards_menus_are_filled(scraped: Scraped) -> None:
    dashboard = json.loads((COMPONENTS / "page-service-dashboard" / "page-service.json").read_text())
    scraped.until("an answer", "deepsynth_serve_build_info")
    asked = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    for query in asked:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found
        answer = scraped.ask(f"label/{found[2]}/values", **{"match[]": found[1].replace("$job", "page-service")})
        assert len(answer) == 1, query


def test_the_autoscalers_rule_gives_each_pod_its_queue(scraped: Scraped) -> None:
    """With the adapter's templates filled as it fills them for one pod."""
    values = yaml.safe_load((COMPONENTS / "page-service-autoscaling" / "prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    name, _, matchers = rule["seriesQuery"].rstrip("}").partition("{")
    scraped.until("an answer", rule["seriesQuery"])
    query = rule["metricsQuery"].replace("<<.Series>>", name).replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", f'{matchers},namespace="{POD["namespace"]}"')
    (answer,) = scraped.ask("query", query=query)["result"]
    assert answer["metric"] == {"pod": POD["pod"]} and float(answer["value"][1]) >= 0


def test_the_metrics_follow_prometheus_own_rules(scraped: Scraped) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    text = scraped.client.get(f"{scraped.service.url}/metrics", headers=headers, timeout=60).content
    command = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stderr.decode()) == (0, "")
