"""A container as strict as a step's pod on a cluster, and a tracking server whose object store only it can reach.

Kubernetes sets the following, which Docker by default does not: the image's user without the group of ``USER`` (the
group comes from /etc/passwd), no capabilities, no new privileges, a read-only root with its own /tmp, limits of CPU and
memory, the variables of the namespace's Services.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.models.containers import Container
from docker.models.networks import Network

from tests.docker.conftest import Images

VOLUME_GROUP = 10001
SERVICES = {
    # Kubernetes' own variables, and those of a Service `mlflow` in the same namespace: MLflow itself reads MLFLOW_PORT.
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "MLFLOW_SERVICE_HOST": "10.96.12.7",
    "MLFLOW_SERVICE_PORT": "5000",
    "MLFLOW_PORT": "tcp://10.96.12.7:5000",
}
_WEED = Path(sys.executable).with_name("weed")


@dataclass(frozen=True)
class Pod:
    """How a step's container is started: its engine, network, volume and variables."""

    engine: docker.DockerClient
    image: str
    volume: Path
    network: str | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def started(self, *command: str, user: str = "10001", memory: str = "3g", cpus: float = 1.5) -> Iterator[Container]:
        """Start ``command`` in a pod's container; it is removed when the block ends."""
        container = self.engine.containers.run(
            self.image,
            list(command),
            detach=True,
            user=user,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=int(cpus * 1e9),
            network=self.network,
            network_disabled=self.network is None,
            mounts=[docker.types.Mount("/volume", str(self.volume), type="bind")],
            environment={**SERVICES, "MLFLOW_TRACKING_URI": "off", **self.variables},
        )
        try:
            yield container
        finally:
            container.remove(force=True)

    def answer(self, *command: str, seconds: float = 900, **limits: object) -> tuple[int, str]:
        """Run ``command`` to its end; return its exit code and what it printed."""
        with self.started(*command, **limits) as container:  # type: ignore[arg-type]
            code = container.wait(timeout=seconds)["StatusCode"]
            return code, container.logs().decode()

    def step(self, name: str, *flags: str, **limits: object) -> tuple[int, str]:
        """Run a step as its pod does."""
        return self.answer("python3", "-m", f"components.{name}", *flags, **limits)


def make_volume(folder: Path) -> Path:
    """Make a folder like a volume after the Job has applied fsGroup: root's, group 10001, setgid, group-writable."""
    folder.mkdir()
    os.chown(folder, 0, VOLUME_GROUP)
    folder.chmod(0o2775)
    return folder


@contextmanager
def tracking_behind_s3(engine: docker.DockerClient, images: Images, folder: Path) -> Iterator[str]:
    """Run MLflow with its artifacts in S3 (SeaweedFS); yield the network on which steps reach only MLflow."""
    with internal_network(engine, "stores") as stores, internal_network(engine, "steps") as steps:
        keys = {"AWS_ACCESS_KEY_ID": "mlflow", "AWS_SECRET_ACCESS_KEY": "test-only", "AWS_DEFAULT_REGION": "us-east-1"}
        weed = docker.types.Mount("/usr/local/bin/weed", str(_WEED), type="bind", read_only=True)
        server = ["weed", "server", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        server += ["-s3.port=8333", "-s3.ip.bind=0.0.0.0", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        server += ["-master.volumePreallocate=false", "-master.volumeSizeLimitMB=64", "-volume.max=0"]
        with (
            _service(engine, images.mlflow, server, stores, "s3", mounts=[weed], environment=keys) as store,
            _service(
                engine,
                images.mlflow,
                ["mlflow", "server", "--serve-artifacts", "--workers=1", "--allowed-hosts=*"],
                steps,
                "mlflow",
                environment=keys
                | {
                    "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/artifacts",
                    "MLFLOW_S3_ENDPOINT_URL": "http://s3:8333",
                },
            ) as tracking,
        ):
            stores.connect(tracking)
            bucket = "import boto3; boto3.client('s3', endpoint_url='http://s3:8333').create_bucket(Bucket='mlflow')"
            wait_for(lambda: tracking.exec_run(["python3", "-c", bucket])[0] == 0, 600, store)
            health = "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"
            wait_for(lambda: tracking.exec_run(["python3", "-c", health])[0] == 0, 600, tracking)
            yield steps.name


@contextmanager
def internal_network(engine: docker.DockerClient, name: str) -> Iterator[Network]:
    """Make a network whose containers reach neither the host nor other networks."""
    network = engine.networks.create(f"deepsynth-test-{name}-{time.time_ns()}", internal=True)
    try:
        yield network
    finally:
        with suppress(docker.errors.APIError):
            network.remove()


@contextmanager
def _service(
    engine: docker.DockerClient, image: str, command: list[str], network: Network, name: str, **arguments: object
) -> Iterator[Container]:
    container = engine.containers.create(
        image, command, tmpfs={"/tmp": "mode=1777", "/data": "mode=1777", "/var/lib/mlflow": "mode=1777"},
        network=network.name, hostname=name, **arguments,
    )  # fmt: skip
    try:
        network.disconnect(container)
        network.connect(container, aliases=[name])
        container.start()
        yield container
    finally:
        container.remove(force=True)


def wait_for(happened: Callable[[], bool], seconds: float, container: Container) -> None:
    """Check every 0.2 s; fail after ``seconds`` with the end of the container's log."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, container.logs().decode()[-4000:]
        time.sleep(0.2)
