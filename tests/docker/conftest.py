"""The engine and the images of the Docker tests, built from this tree as `make images` does.

DEEPSYNTH_TEST_TAG names existing images to test; then none are built.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.docker.engine import docker_engine

TREE = Path(__file__).parents[2]
OFFLINE_BASE = "deepsynth-base:bookworm"
BUILT_TAG = "tests"


@dataclass(frozen=True)
class Images:
    step: str
    mlflow: str


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    with docker_engine() as client:
        yield client


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> Images:
    tag = os.environ.get("DEEPSYNTH_TEST_TAG")
    if not tag:
        tag = BUILT_TAG
        _build(engine, tag)
    return Images(f"deepsynth-pipelines-python:{tag}", f"deepsynth-mlflow:{tag}")


def _build(engine: docker.DockerClient, tag: str) -> None:
    # Both take minutes, most of which they wait for the network.
    jobs = (
        [_started("make", "wheels", f"PYTHON={sys.executable}")]
        if not list((TREE / "images" / "wheels" / "cpu").glob("*.whl"))
        else []
    )
    options = ["make", "images", f"TAG={tag}"]
    if os.getuid() == 0 and shutil.which("debootstrap"):
        options.append(f"BASE_IMAGE={OFFLINE_BASE}")
        if not engine.images.list(name=OFFLINE_BASE):
            jobs.append(_started("images/offline-base.sh", OFFLINE_BASE))
    for job in jobs:
        _ended(job)
    _ended(_started(*options))


def _started(*command: str) -> tuple[subprocess.Popen[bytes], Path]:
    with tempfile.NamedTemporaryFile(prefix="deepsynth-build-", suffix=".log", delete=False) as log:
        return subprocess.Popen(command, cwd=TREE, stdout=log, stderr=subprocess.STDOUT), Path(log.name)


def _ended(job: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, log = job
    try:
        assert process.wait(timeout=1800) == 0, f"{process.args}:\n{log.read_text()[-4000:]}"
    finally:
        log.unlink()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user can enter, unlike pytest's own; it is removed with an ordinary user's files in it."""
    with tempfile.TemporaryDirectory(prefix="deepsynth-docker-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
