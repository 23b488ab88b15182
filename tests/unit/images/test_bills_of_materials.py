"""The bill of materials of this environment, its statement, its signature; the programs that others must run for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import attest, sbom

ROOT = Path(__file__).parents[3]
IMAGE = "registry.example/team/deepsynth-mlflow:1.2.3-ab"
DIGEST = "sha256:" + "cd" * 32


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """The bill of this environment's packages, as if it were an image."""
    said = subprocess.run([sys.executable, "-c", sbom.INVENTORY], capture_output=True, text=True, check=True)
    inventory = json.loads(said.stdout)
    assert len(inventory["python"]) > 150
    # Validation takes 10 s for all of them.
    inventory["python"] = {name: inventory["python"][name] for name in ("mlflow", "pydantic", "Jinja2", "torch")}
    inventory["debian"] = {name: about for name, about in inventory["debian"].items() if name in ("libc6", "bash")}
    bom = sbom.bill_of_materials(IMAGE, DIGEST, {"org.opencontainers.image.version": "1.2.3"}, inventory)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return dict(json.loads(text))


def test_it_names_python_and_debian_packages(bill: dict[str, Any]) -> None:
    purls = [one["purl"] for one in bill["components"] if "purl" in one]
    assert any(purl.startswith("pkg:pypi/mlflow@3.") for purl in purls)
    assert bill["metadata"]["component"]["name"] == IMAGE.rpartition(":")[0]
    licenses = {one["name"]: one.get("licenses") for one in bill["components"]}
    assert licenses["pydantic"] == [{"license": {"id": "MIT"}}] or "MIT" in json.dumps(licenses["pydantic"])
    if Path("/var/lib/dpkg/status").exists():
        (libc,) = [purl for purl in purls if purl.startswith("pkg:deb/debian/libc6@")]
        assert "distro=" in libc and "upstream=glibc" in libc


def test_the_same_image_gives_the_same_serial_number(bill: dict[str, Any]) -> None:
    nothing: dict[str, Any] = {"python": {}, "debian": {}, "system": {}, "interpreter": "3.11"}
    again = sbom.bill_of_materials(IMAGE, DIGEST, {}, nothing)
    other = sbom.bill_of_materials(IMAGE, "sha256:0", {}, nothing)
    assert f"urn:uuid:{again.serial_number}" == bill["serialNumber"] != f"urn:uuid:{other.serial_number}"


@dataclass(frozen=True)
class Attested:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def attested(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Attested]:
    """images/attest.py, in this process."""

    def run(action: str, folder: Path, key: Path) -> Attested:
        monkeypatch.setattr(sys, "argv", ["attest.py", action, str(folder), "--key", str(key)])
        code, error = 0, ""
        try:
            attest.main()
        except SystemExit as end:
            code, error = 1, f"{end.code}\n"
        return Attested(code, capsys.readouterr().out, error)

    return run


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


def test_a_signed_statement_is_checked_and_a_changed_one_refused(
    bill: dict[str, Any], keys: tuple[Path, Path], tmp_path: Path, attested: Callable[..., Attested]
) -> None:
    (folder := tmp_path / "sbom").mkdir()
    statement = sbom.statement(IMAGE, DIGEST, True, bill)
    (folder / "mlflow.statement.json").write_text(json.dumps(statement))
    private, public = keys
    signed = attested("sign", folder, private)
    assert signed.returncode == 0, signed.stderr
    checked = attested("verify", folder, public)
    assert checked.returncode == 0 and f"signed for {IMAGE} {DIGEST}" in checked.stdout

    envelope = json.loads((folder / "mlflow.intoto.json").read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    changed = envelope | {"payload": envelope["payload"][:-8] + "AAAAAA=="}
    (folder / "mlflow.intoto.json").write_text(json.dumps(changed))
    refused = attested("verify", folder, public)
    assert refused.returncode == 1 and refused.stderr.startswith("error: ")

    (folder / "mlflow.intoto.json").write_text(json.dumps(envelope))
    (other := tmp_path / "other").mkdir()
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", other / "private.pem"], check=True, capture_output=True
    )
    subprocess.run(
        ["openssl", "pkey", "-in", other / "private.pem", "-pubout", "-out", other / "public.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert attested("verify", folder, other / "public.pem").returncode == 1
    assert attested("verify", tmp_path / "nothing", public).stderr.endswith("make sbom writes the statements\n")


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_images_are_signed_by_their_pushed_digest_and_get_their_bill(tmp_path: Path) -> None:
    """cosign and docker are stand-ins: this checks what they are asked, not what they do."""
    pushed = IMAGE.rpartition(":")[0] + "@" + DIGEST
    script = f'[ "$5" = "{IMAGE}" ] || [ "$3" = "{IMAGE}" ] || exit 1; printf "%s\\n" other@sha256:1 {pushed}'
    stand_in(tmp_path / "bin", "docker", script)
    stand_in(tmp_path / "bin", "cosign", f'echo "$@" >> {tmp_path}/asked')
    bill = tmp_path / "build" / "sbom" / f"{IMAGE.replace('/', '_').replace(':', '_')}.cdx.json"
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "COSIGN_KEY": "cosign.key"}
    command = [str(ROOT / "images" / "sign-images.sh"), IMAGE, "not-built-here:1"]

    missing = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert missing.returncode == 2 and "is missing: make sbom" in missing.stderr and not (tmp_path / "asked").exists()
    bill.parent.mkdir(parents=True)
    bill.write_text("{}")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    key = "--yes --key cosign.key"
    path = bill.relative_to(tmp_path)
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"sign {key} {pushed}",
        f"attest {key} --type cyclonedx --predicate {path} {pushed}",
    ]
    del environment["COSIGN_KEY"]
    unkeyed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert unkeyed.returncode != 0 and "COSIGN_KEY= is needed" in unkeyed.stderr


@pytest.mark.parametrize(("program", "code"), [("trivy", 0), ("grype", 1)])
def test_a_scanner_gets_each_bill_and_its_findings_are_the_exit_code(tmp_path: Path, program: str, code: int) -> None:
    stand_in(tmp_path / "bin", program, f'echo "{program} $@" >> {tmp_path}/asked; exit {code}')
    (tmp_path / "a.cdx.json").write_text("{}")
    environment = {"PATH": f"{tmp_path}/bin:/bin"}
    command = [str(ROOT / "images" / "scan-images.sh"), "a.cdx.json"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == code and (tmp_path / "asked").read_text().rstrip().endswith("a.cdx.json")
    nothing = subprocess.run([command[0], "b.cdx.json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert nothing.returncode == 2 and "make sbom writes them" in nothing.stderr
