"""Faults around a step in a container: a full disk, folders and servers that refuse. A step names or survives each."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.docker.conftest import Images
from tests.docker.ordinary_user import UID, given_to_user, user_id
from tests.docker.test_docker_run import make_place, one_line
from tests.fixtures.mlflow_server import free_port
from tests.fixtures.refusing_server import refusing_server

pytestmark = pytest.mark.docker

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount, and give a folder to someone else")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk of ``size`` at ``folder`` that belongs to the ordinary user."""
    options = f"size={size},uid={UID},gid={UID},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def prepared(
    engine: docker.DockerClient, images: Images, folder: Path, *options: str, **variables: str
) -> tuple[int, str]:
    """Run only the prepare step, with few documents, into ``folder``; return its exit code and its output."""
    command = ["python3", "-m", "components.prepare", "--output_dir", str(folder / "dataset"), *options]
    container = engine.containers.run(
        images.step,
        [*command, "--max_documents", "5"],
        user=f"{user_id()}:{user_id()}",
        environment=variables,
        network_mode="host",
        mounts=[docker.types.Mount(str(folder), str(folder), type="bind")],
        detach=True,
    )
    try:
        code = container.wait(timeout=600)["StatusCode"]
        return code, container.logs().decode()
    finally:
        container.remove(force=True)


@only_root
def test_a_full_disk_under_the_runs_is_named_and_leaves_nothing_that_looks_finished(
    images: Images, folder: Path
) -> None:
    place = make_place(folder)
    place.runs.mkdir()
    # Enough for the MLflow store and the dataset, too little for the adapter.
    with small_disk(place.runs, "3m"):
        said = one_line(place.run(place.command(images.step, train__r=256)))
        left = {path.name for path in place.runs.iterdir()}
    assert "no space is left on the disk" in said and str(place.runs) in said and "MiB are free in output_dir" in said
    assert "make room there" in said
    assert left - {".checkpoints"} <= {"mlflow.db", "mlflow.db-journal", "mlartifacts", "r1.failed.log", "r1.failed"}


@only_root
def test_a_full_disk_under_one_step_is_named(engine: docker.DockerClient, images: Images, folder: Path) -> None:
    output = given_to_user(folder / "output")
    with small_disk(output, "64k"):
        code, said = prepared(engine, images, output, MLFLOW_TRACKING_URI="off")
        assert code == 2 and not (output / "dataset").exists()
    error = said.strip().splitlines()[-1]
    assert error.startswith("error: ") and "no space is left on the disk" in error and str(output) in error


@only_root
def test_a_folder_of_runs_that_cannot_be_written_is_named(images: Images, folder: Path) -> None:
    place = make_place(folder)
    place.runs.mkdir()  # root's
    said = one_line(place.run(place.command(images.step)))
    assert said.startswith("error: ") and f"permission denied (for the user {UID}" in said and str(place.runs) in said


@only_root
def test_an_output_folder_that_cannot_be_written_is_named(
    engine: docker.DockerClient, images: Images, folder: Path
) -> None:
    (folder / "output").mkdir()  # root's
    code, said = prepared(engine, images, folder / "output", MLFLOW_TRACKING_URI="off")
    error = said.strip().splitlines()[-1]
    assert code == 2 and f"permission denied (for the user {UID}" in error and str(folder / "output") in error


@pytest.mark.parametrize("status", [401, None])  # tests/unit/prepare/test_refusals.py has more
def test_an_mlflow_server_that_is_down_or_refuses_costs_one_warning_and_no_result(
    engine: docker.DockerClient, images: Images, folder: Path, status: int | None
) -> None:
    output = given_to_user(folder / "output")
    if status is None:
        address = f"http://127.0.0.1:{free_port()}"
        code, said = prepared(engine, images, output, MLFLOW_TRACKING_URI=address)
    else:
        with refusing_server(status) as server:
            address = server.url
            code, said = prepared(engine, images, output, MLFLOW_TRACKING_URI=address, MLFLOW_TRACKING_TOKEN="expired")
            assert server.asked
    assert code == 0, said
    assert (output / "dataset" / "manifest.json").exists()
    (warning,) = [line for line in said.splitlines() if "MLflow tracking at" in line]
    assert address in warning and "the step goes on, its results are on disk" in warning
    assert ("refuses the credentials (MLFLOW_TRACKING_TOKEN" in warning) == (status == 401)


def test_an_expired_hub_token_is_named(engine: docker.DockerClient, images: Images, folder: Path) -> None:
    output = given_to_user(folder / "output")
    variables = {"MLFLOW_TRACKING_URI": "off", "HF_TOKEN": "hf_old"}
    with refusing_server(401, 'User Access Token "ci" is expired') as server:
        code, said = prepared(engine, images, output, "--source", "hf:me/pages", HF_ENDPOINT=server.url, **variables)
    error = said.strip().splitlines()[-1]
    assert code == 2 and not (output / "dataset").exists()
    assert error.startswith("error: hf:me/pages: the hub refuses the token of HF_TOKEN (401") and "expired" in error
