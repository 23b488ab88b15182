"""How many processes and threads a step's image starts under a real CPU quota."""

import docker
import pytest

from tests.docker.conftest import Images

pytestmark = pytest.mark.docker

PROGRAM = """
from components.prepare.config import PrepareConfig
from pipelines.task_side.task_entry import task
with task("train"):
    import os, torch
    print(PrepareConfig(output_dir="x").workers, torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.5, 2)])
def test_workers_and_threads_keep_to_the_quota(
    engine: docker.DockerClient, images: Images, cpus: float, threads: int
) -> None:
    output = engine.containers.run(
        images.step, ["python3", "-c", PROGRAM], nano_cpus=int(cpus * 1e9), remove=True, stderr=False
    )
    assert output.decode().split() == [str(threads), str(threads), "PASSIVE"]
