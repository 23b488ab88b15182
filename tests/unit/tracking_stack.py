"""The tracking stack of manifests/overlays/local as processes of this machine: PostgreSQL, SeaweedFS and MLflow.

Commands and environment of SeaweedFS and MLflow are the rendered manifest's; only addresses, ports and folders differ.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from tests.unit.mlflow_server import free_port
from tests.unit.rendered_manifests import Manifest

_SECONDS = 90
_PROGRAMS = {"mlflow": [sys.executable, "-m", "mlflow"], "weed": [str(Path(sys.executable).parent / "weed")]}


@dataclass(frozen=True)
class Stack:
    """A running stack. ``folder`` is what MLflow may write: its HOME and /tmp."""

    address: str
    backend_store_uri: str
    folder: Path
    workdir: Path
    mlflow: subprocess.Popen


def container_of(objects: list[Manifest], name: str) -> Manifest:
    """Return the only container of the Deployment or StatefulSet ``name``."""
    kinds = ("Deployment", "StatefulSet")
    (one,) = [one for one in objects if one["kind"] in kinds and one["metadata"]["name"] == name]
    (container,) = one["spec"]["template"]["spec"]["containers"]
    return container


@contextmanager
def tracking_stack(objects: list[Manifest], folder: Path) -> Iterator[Stack]:
    """Start all three, yield them once they answer, and stop them."""
    with ExitStack() as stack:
        uri = stack.enter_context(_postgres())
        store = stack.enter_context(_seaweedfs(objects, folder / "s3"))
        yield stack.enter_context(mlflow(objects, folder, uri, store))


@contextmanager
def _postgres() -> Iterator[str]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql (make system-packages)")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="deepsynth-postgres-"))  # pytest's own folders are closed to other users
    try:
        (folder / "password").write_text("test-only")
        if as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        initdb = [str(programs[-1]), "--pgdata", str(folder / "data"), "--username=mlflow", "--auth=scram-sha-256"]
        initdb += ["--pwfile", str(folder / "password"), "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
        subprocess.run(as_user + initdb, check=True, capture_output=True, cwd=folder, timeout=_SECONDS)
        port = free_port()
        server = [str(programs[-1].parent / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        server += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        uri = f"postgresql://mlflow:test-only@127.0.0.1:{port}"
        with _running(as_user + server, {}, folder / "log", folder, signal.SIGINT) as process:
            _wait(process, lambda: psycopg2.connect(f"{uri}/postgres").close(), folder / "log")
            connection = psycopg2.connect(f"{uri}/postgres")
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE mlflow")
            connection.close()
            # SQLAlchemy 2.1 takes psycopg 3 where the driver is not named.
            yield f"{uri}/mlflow".replace("postgresql:", "postgresql+psycopg2:")
    finally:
        shutil.rmtree(folder)


@contextmanager
def _seaweedfs(objects: list[Manifest], folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True)
    container = container_of(objects, "seaweedfs")
    port = free_port()
    given = {"-dir": str(folder), "-s3.ip.bind": "127.0.0.1", "-s3.port": str(port)}
    arguments = [_replaced(argument, given) for argument in container["args"]]
    others = [
        "s3.port.grpc",
        *(f"{part}.port{kind}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")),
    ]
    arguments += [f"-{name}={free_port()}" for name in others]
    environment = _environment(objects, container, {}) | {"HOME": str(folder)}
    log = folder / "log"
    command = [*_PROGRAMS[container["command"][0]], *arguments]
    # It takes 16 s to stop in good order, and its data are thrown away.
    with _running(command, environment, log, folder, signal.SIGKILL) as process:
        address = f"http://127.0.0.1:{port}"
        path = container["readinessProbe"]["httpGet"]["path"]
        _wait(process, lambda: urllib.request.urlopen(address + path, timeout=5).close(), log)
        yield address


@contextmanager
def mlflow(
    objects: list[Manifest], folder: Path, uri: str, store: str, more: dict[str, str] | None = None, wait: bool = True
) -> Iterator[Stack]:
    """Start the Deployment's container on the given stores; its pod may write ``folder``/tmp only."""
    container = container_of(objects, "mlflow")
    port = free_port()
    given = {"--host": "127.0.0.1", "--port": str(port)}
    arguments = [_replaced(argument, given) for argument in container["args"]]
    scratch = Path(tempfile.mkdtemp(prefix="mlflow-", dir=folder))
    (temporary := scratch / "tmp").mkdir()
    (workdir := scratch / "workdir").mkdir()
    environment = _environment(objects, container, {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_S3_ENDPOINT_URL": store})
    environment |= {"HOME": str(temporary), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"} | (more or {})
    command = [*_PROGRAMS[container["command"][0]], *container["command"][1:], *arguments]
    log = scratch / "log"
    with _running(command, environment, log, workdir, signal.SIGTERM) as process:
        address = f"http://127.0.0.1:{port}"
        if wait:
            path = container["startupProbe"]["httpGet"]["path"]
            _wait(process, lambda: urllib.request.urlopen(address + path, timeout=5).close(), log)
        yield Stack(address, uri, temporary, workdir, process)


def upgraded(job: Manifest, uri: str, folder: Path) -> subprocess.CompletedProcess:
    """Run the container of the Job ``mlflow-db-upgrade`` on a database, as Kubernetes expands its arguments."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("$(MLFLOW_BACKEND_STORE_URI)", uri) for argument in container["args"]]
    command = [*_PROGRAMS[container["command"][0]], *container["command"][1:], *arguments]
    environment = _environment([], container, {"MLFLOW_BACKEND_STORE_URI": uri}) | {"HOME": str(folder)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)


def _replaced(argument: str, given: dict[str, str]) -> str:
    name = argument.partition("=")[0]
    return f"{name}={given[name]}" if name in given else argument


def _environment(objects: list[Manifest], container: Manifest, given: dict[str, str]) -> dict[str, str]:
    """Return what Kubernetes would set: the ConfigMaps' values, then ``env``; nothing of this process but PATH."""
    maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    values = {"PATH": os.environ["PATH"]}
    for source in container.get("envFrom", []):
        values |= maps[source["configMapRef"]["name"]]
    for variable in container["env"]:
        values[variable["name"]] = variable.get("value", f"test-only-{variable['name'].lower()}")
    assert set(given) <= set(values), "the manifest no longer sets what the test replaces"
    return values | given


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], log: Path, folder: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment or None, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen, attempt: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            attempt()
            return
        except (OSError, psycopg2.OperationalError) as error:
            over = process.poll() is not None or time.monotonic() > deadline
            assert not over, f"{error}\n{log.read_text()[-4000:]}"
            time.sleep(0.1)
