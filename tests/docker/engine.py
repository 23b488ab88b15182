"""A Docker engine for tests: the running one, or one that is started for the tests and ends with them."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

_SECONDS_TO_START = 300.0


@contextmanager
def docker_engine() -> Iterator[docker.DockerClient]:
    """Yield a client; DOCKER_HOST names its engine inside the block."""
    client = _running_engine()
    if client is not None:
        yield client
        return
    if os.getuid() != 0 or not shutil.which("dockerd"):
        pytest.skip("no Docker engine answers, and none can be started: that needs root and dockerd (docker.io)")
    # Not pytest's temporary folder: pytest keeps those of the last three sessions, and this one holds gigabytes.
    with tempfile.TemporaryDirectory(prefix="deepsynth-engine-", ignore_cleanup_errors=True) as folder:
        yield from _own_engine(Path(folder))


def _running_engine() -> docker.DockerClient | None:
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        return None
    os.environ.setdefault("DOCKER_HOST", "unix:///var/run/docker.sock")
    return client


def _own_engine(folder: Path) -> Iterator[docker.DockerClient]:
    folder.chmod(0o755)  # so that another user's client can reach the socket
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "pid")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = host
    try:
        yield _answering(process, folder / "log")
    finally:
        process.terminate()
        process.wait(timeout=300)
        # The engine leaves its network namespace mounted; the folder could not be removed.
        subprocess.run(["umount", "--lazy", str(folder / "exec" / "netns" / "default")], capture_output=True)
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before


def _answering(process: subprocess.Popen[bytes], log: Path) -> docker.DockerClient:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        if client := _running_engine():
            return client
        time.sleep(0.2)
    last = log.read_text().strip().rpartition("\n")[2]
    pytest.skip(f"the Docker engine does not start here: {last[-300:]}")
