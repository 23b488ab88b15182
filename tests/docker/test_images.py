"""The documented properties of the images, checked on the built images."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from components.shared.versions import git_commit, tool_version
from tests.docker.conftest import TREE, Images

pytestmark = pytest.mark.docker


def config(engine: docker.DockerClient, image: str) -> dict[str, Any]:
    return dict(engine.images.get(image).attrs["Config"])


def said(engine: docker.DockerClient, image: str, command: list[str], **arguments: Any) -> str:
    return engine.containers.run(image, command, remove=True, stderr=True, **arguments).decode()


@pytest.fixture(scope="module")
def server(engine: docker.DockerClient, images: Images) -> Iterator[Any]:
    """An MLflow server; it starts, which takes half a minute, while the other tests run."""
    container = engine.containers.run(
        images.mlflow, detach=True, read_only=True, tmpfs={"/tmp": "", "/var/lib/mlflow": ""}
    )
    yield container
    container.remove(force=True)


@pytest.mark.usefixtures("server")
def test_both_images_name_what_they_hold(engine: docker.DockerClient, images: Images) -> None:
    for image in (images.step, images.mlflow):
        labels = {
            name.removeprefix("org.opencontainers.image."): value
            for name, value in config(engine, image)["Labels"].items()
        }
        assert set(labels) == {"title", "source", "version", "revision", "licenses"}
        assert labels["version"] == tool_version() and labels["licenses"] == "Apache-2.0"
        assert re.fullmatch("[0-9a-f]{40}", labels["revision"])
        assert config(engine, image)["User"] == "10001:10001"


def test_a_step_knows_its_commit_and_version(engine: docker.DockerClient, images: Images) -> None:
    program = "from components.shared.versions import *; print(tool_version(), git_commit())"
    known = git_commit() if "DEEPSYNTH_TEST_TAG" not in os.environ else None
    version, commit = said(engine, images.step, ["python3", "-c", program]).split()
    assert version == tool_version() and known in (None, commit)


def test_a_step_can_install_nothing_and_has_no_test_packages(engine: docker.DockerClient, images: Images) -> None:
    program = (
        "import importlib.util as u\n"
        "print([name for name in ('pip', 'ensurepip', 'pytest', 'hypothesis', 'mypy', 'jiwer', 'kubernetes')"
        " if u.find_spec(name)])"
    )
    assert said(engine, images.step, ["python3", "-c", program]).strip() == "[]"


def test_the_packages_are_those_of_the_pinned_versions(engine: docker.DockerClient, images: Images) -> None:
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (TREE / "constraints.txt").read_text(), re.M)
    of = {name.lower().replace("_", "-"): version for name, version in pinned}
    for image in (images.step, images.mlflow):
        for name, version in (line.split("==") for line in said(engine, image, ["python3", "-c", program]).split()):
            expected = of.get(name.lower().replace("_", "-"))
            named_by_build = version.partition("+")[0]  # torch's CPU build is 2.13.0+cpu
            assert expected == named_by_build or name == "deepsynth-pipelines", (name, version)


@pytest.mark.parametrize("user", ["10001:10001", "54321:54321", "0:0"])
def test_any_user_can_run_a_step(engine: docker.DockerClient, images: Images, user: str) -> None:
    command = "python3 -m components.prepare --output_dir /tmp/dataset --max_documents 3 && ls /tmp/dataset"
    variables = {"MLFLOW_TRACKING_URI": "off"}
    answer = said(
        engine, images.step, ["sh", "-c", command], user=user, environment=variables, read_only=True, tmpfs={"/tmp": ""}
    )
    assert "manifest.json" in answer


def test_pango_and_fonts_of_all_scripts_are_there(engine: docker.DockerClient, images: Images) -> None:
    fonts = said(engine, images.step, ["fc-list"])
    assert "NotoSansDevanagari" in fonts and "wqy-microhei" in fonts


def test_the_mlflow_server_gets_healthy_and_answers(engine: docker.DockerClient, images: Images, server: Any) -> None:
    check = config(engine, images.mlflow)["Healthcheck"]["Test"]
    assert check[0] == "CMD" and "/health" in " ".join(check)
    deadline = time.monotonic() + 600
    while server.health != "healthy":
        assert server.status != "exited" and time.monotonic() < deadline, server.logs().decode()[-2000:]
        time.sleep(1)
        server.reload()
    program = (
        "import mlflow; mlflow.set_tracking_uri('http://127.0.0.1:5000'); mlflow.log_text('read', 'a.txt');"
        "print(mlflow.artifacts.load_text(mlflow.get_artifact_uri('a.txt')))"
    )
    code, output = server.exec_run(["python3", "-c", program])
    assert code == 0 and b"read" in output, output


def test_a_tag_that_says_nothing_is_refused() -> None:
    answer = subprocess.run(["make", "images", "TAG=latest"], cwd=TREE, capture_output=True, text=True)
    assert answer.returncode == 2 and "TAG=latest says nothing about the code" in answer.stderr
