"""Mutual TLS: who has no certificate of the authority does not get a connection; certificates made in the test."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from components.serve.config import ServeConfig
from components.serve.step import run
from components.shared.programs.step_command import step_main
from tests.fixtures.certificates import Authority
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.service_process import RunningService, running_service

NAME = "page-service.deepsynth.svc"
PROBE = Path(__file__).parents[3] / "manifests" / "components" / "page-service-mtls" / "probe.py"


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@dataclass(frozen=True)
class Secured:
    """A service with mutual TLS, the folders of certificates, and a client whose certificate it knows."""

    service: RunningService
    folder: Path
    client: requests.Session


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder, authority = tmp_path_factory.mktemp("certificates"), Authority()
    server = written(folder / "server", authority.signed(NAME))
    known = written(folder / "known", authority.signed("me"))
    written(folder / "another", authority.signed("you"))
    written(folder / "stranger", Authority().signed("me"))
    flags = ("--tls_certificate", str(server / "tls.crt"), "--tls_key", str(server / "tls.key"))
    flags += ("--tls_client_ca", str(server / "ca.crt"), "--max_new_tokens", "4")
    flags += ("--max_request_bytes", "60000", "--max_uploaded_bytes", "60000")
    with running_service(folder, *flags, ready=False) as service, requests.Session() as client:
        client.trust_env = False  # REQUESTS_CA_BUNDLE would replace `verify`
        client.verify, client.cert = str(known / "ca.crt"), (str(known / "tls.crt"), str(known / "tls.key"))
        while client.get(f"{service.url}/health/ready", timeout=60).status_code != 200:
            assert service.process.poll() is None, service.log.read_text()
            time.sleep(0.05)
        yield Secured(service, folder, client)


def test_a_known_certificate_reads_without_a_token(secured: Secured) -> None:
    assert secured.service.url.startswith("https://")
    files = {"file": as_file(drawn_page("x"))}
    assert secured.client.post(f"{secured.service.url}/v1/ocr", files=files, timeout=300).status_code == 200


@pytest.mark.parametrize("certificate", [None, "stranger"])
def test_no_certificate_or_a_strangers_gets_no_connection(secured: Secured, certificate: str | None) -> None:
    """Not even to the probes: on Kubernetes they are programs in the pod then (docs/cluster.md)."""
    folder = secured.folder / (certificate or "")
    shown = (str(folder / "tls.crt"), str(folder / "tls.key")) if certificate else None
    with pytest.raises(requests.ConnectionError) as caught:
        requests.get(f"{secured.service.url}/health/live", verify=secured.client.verify, cert=shown, timeout=60)
    assert "VERIFY_FAILED" not in str(caught.value), "the client refused the server"
    with pytest.raises(requests.ConnectionError):
        requests.get(secured.service.url.replace("https", "http") + "/health/live", timeout=60)


def test_the_pods_probes_have_a_certificate(secured: Secured) -> None:
    """manifests/components/page-service-mtls: the program that the kubelet runs in the pod."""
    for folder, path, code in (("known", "ready", 0), ("stranger", "ready", 1), ("known", "none", 1), ("", "ready", 1)):
        address = f"{secured.service.url}/health/{path}"
        command = [sys.executable, str(PROBE), address, str(secured.folder / folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, (folder, path, done.stderr)
        assert len(done.stderr.splitlines()) == code, "one line that says what is wrong, or none"


def test_other_machines_ask_by_the_certificates_name_and_web_pages_do_not(secured: Secured) -> None:
    """A browser shows the client's certificate to the requests of any page."""
    address = f"{secured.service.url}/v1/models"
    statuses = {
        origin: secured.client.get(address, headers={"Host": NAME, "Origin": origin}, timeout=60).status_code
        for origin in (f"https://{NAME}", "https://elsewhere.example", "null")
    }
    assert statuses == {f"https://{NAME}": 200, "https://elsewhere.example": 403, "null": 403}
    assert secured.client.get(address, headers={"Host": NAME}, timeout=60).status_code == 200


def test_a_certificate_is_no_administrators_token(secured: Secured) -> None:
    answer = secured.client.post(f"{secured.service.url}/admin/models", json={"source": "x"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_admin_token")


def test_clients_are_told_apart_by_their_certificates(secured: Secured) -> None:
    """One address, two certificates: what one of them uploads leaves the other's share as it is."""
    address, known = urlsplit(secured.service.url), secured.folder / "known"
    context = ssl.create_default_context(cafile=known / "ca.crt")
    context.load_cert_chain(known / "tls.crt", known / "tls.key")
    head = f"POST /v1/ocr HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: multipart/form-data; boundary=x\r\n"

    def status(certificate: Path) -> int:
        files, shown = {"file": bytes(35_000)}, (str(certificate / "tls.crt"), str(certificate / "tls.key"))
        url = f"{secured.service.url}/v1/ocr"
        return requests.post(url, files=files, verify=secured.client.verify, cert=shown, timeout=60).status_code

    with (
        socket.create_connection((address.hostname or "", address.port or 0)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as upload,
    ):
        upload.sendall(f"{head}Content-Length: 40000\r\n\r\n-".encode())
        while (found := status(known)) != 429:
            assert found == 400 and secured.service.process.poll() is None  # not yet there
        assert status(secured.folder / "another") == 400, "no picture, but taken"


def test_certificates_that_do_not_fit_together_are_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, Authority().signed("a")) for name in ("one", "other"))
    (tmp_path / "no.pem").write_text("nothing")
    flags = {
        "need each other": ["--tls_certificate", str(one / "tls.crt")],
        "tls_client_ca needs": ["--tls_client_ca", str(one / "ca.crt"), "--host", "0.0.0.0"],
        "KEY_VALUES_MISMATCH": ["--tls_certificate", str(one / "tls.crt"), "--tls_key", str(other / "tls.key")],
        "No such file": ["--tls_certificate", str(tmp_path / "none"), "--tls_key", str(one / "tls.key")],
        "NO_CERTIFICATE_OR_CRL_FOUND": [
            *("--tls_certificate", str(one / "tls.crt"), "--tls_key", str(one / "tls.key")),
            *("--tls_client_ca", str(tmp_path / "no.pem")),
        ],
    }
    for said, chosen in flags.items():
        assert step_main("serve", ServeConfig, run, [*chosen, "--port", "0"]) == 2
        printed = capfd.readouterr().err
        assert said in printed and len(printed.splitlines()) == 1
