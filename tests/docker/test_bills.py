"""The bill of materials of a built image."""

import json
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from tests.docker.conftest import TREE, Images

pytestmark = pytest.mark.docker


def test_an_image_gets_its_bill_and_a_statement_with_its_digest(
    engine: docker.DockerClient, images: Images, tmp_path: Path
) -> None:
    command = [sys.executable, str(TREE / "images" / "sbom.py"), images.mlflow, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = images.mlflow.replace(":", "_")
    bill = json.loads((tmp_path / f"{name}.cdx.json").read_text())
    purls = {one.get("purl", "").partition("@")[0] for one in bill["components"]}
    assert {"pkg:pypi/mlflow", "pkg:pypi/psycopg2-binary", "pkg:pypi/flask-wtf", "pkg:deb/debian/libc6"} <= purls
    assert not {"pkg:pypi/torch", "pkg:pypi/pip"} & purls
    statement = json.loads((tmp_path / f"{name}.statement.json").read_text())
    (subject,) = statement["subject"]
    assert f"sha256:{subject['digest']['sha256']}" == engine.images.get(images.mlflow).id
    assert statement["predicate"] == bill and statement["predicateType"] == "https://cyclonedx.org/bom"
    missing = subprocess.run([*command[:2], "no-such-image:1", str(tmp_path)], capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr.startswith("error: docker image inspect: ")
