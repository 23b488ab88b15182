"""The service in a container as strict as its pod: another group, no capabilities, a read-only root; SIGTERM."""

import json
import os
import threading
from pathlib import Path

import docker
import pytest

from tests.docker.conftest import Images
from tests.docker.pods import Pod, internal_network, make_volume, wait_for
from tests.fixtures.drawn_pages import as_file, drawn_page

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make a volume of root's for another group"),
]

TOKEN = "0123456789abcdef0123"
SERVE = (
    *("python3", "-m", "components.serve", "--host", "0.0.0.0", "--port", "8000", "--model", "tiny-base"),
    *("--max_batch_size", "1", "--max_new_tokens", "48", "--drain_seconds", "300", "--drain_notice_seconds", "1"),
    *("--request_timeout_seconds", "600"),
)
PAGES = 100
ASK = f"""
import pathlib, sys, requests
page = pathlib.Path("/volume/page.png").read_bytes()
answer = requests.post(
    f"http://{{sys.argv[1]}}:8000/v1/ocr", files=[("file", ("page.png", page))] * {PAGES},
    headers={{"Authorization": "Bearer {TOKEN}"}}, timeout=600,
)
print(answer.status_code, len(answer.json().get("pages", [])))
"""
HEALTH = "import requests, sys; sys.exit(not requests.get('http://127.0.0.1:8000/health/ready', timeout=5).ok)"
UNTIL_IT_READS = f"""
import requests, time
end = time.monotonic() + 300
address, token = "http://127.0.0.1:8000/metrics", {{"Authorization": "Bearer {TOKEN}"}}
while "deepsynth_serve_running_pages 0.0" in requests.get(address, headers=token, timeout=60).text:
    assert time.monotonic() < end, "no page is read"
"""


def test_a_service_that_is_told_to_end_answers_what_is_in_flight(
    engine: docker.DockerClient, images: Images, folder: Path
) -> None:
    volume = make_volume(folder / "volume")
    (volume / "page.png").write_bytes(as_file(drawn_page("a page")))
    (volume / "page.png").chmod(0o644)
    with internal_network(engine, "pages") as network:
        variables = {"DEEPSYNTH_SERVE_TOKEN": TOKEN, "DEEPSYNTH_LOG": "json"}
        pod = Pod(engine, images.step, volume, network.name, variables)
        with pod.started(*SERVE, user="10001:0") as service:
            wait_for(lambda: service.exec_run(["python3", "-c", HEALTH])[0] == 0, 600, service)
            assert service.exec_run(["id", "-u"])[1].strip() == b"10001" and service.exec_run(["id", "-g"])[1] == b"0\n"
            assert service.exec_run(["touch", "/opt/here"])[0] != 0, "the root file system can be written"
            service.reload()
            address = service.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
            answers: list[tuple[int, str]] = []
            client = threading.Thread(target=lambda: answers.append(pod.answer("python3", "-c", ASK, address)))
            client.start()
            assert service.exec_run(["python3", "-c", UNTIL_IT_READS])[0] == 0
            service.kill("SIGTERM")
            assert service.wait(timeout=600)["StatusCode"] == 0, service.logs().decode()[-3000:]
            client.join()
            assert answers == [(0, f"200 {PAGES}\n")]
            lines = [json.loads(line) for line in service.logs().decode().splitlines()]
            assert any(line["message"].startswith("stopping") for line in lines)
