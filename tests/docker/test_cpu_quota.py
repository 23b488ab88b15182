"""How many processes and threads a step's image starts under a real CPU quota."""

import os
from pathlib import Path

import docker
import pytest

from tests.benchmarks.container_neighbours import beside, prepared, trained
from tests.docker.conftest import Images
from tests.docker.pods import Pod, make_volume

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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a volume of root's for another group")
def test_a_neighbour_costs_its_share_and_no_more(engine: docker.DockerClient, images: Images, folder: Path) -> None:
    """Two trainings that want more cores than there are: each uses the CPU time that it uses alone.

    CPU time, not elapsed time: that depends on all that runs on the machine. Threads that spin while they wait for one
    without a core use several times as much (docs/benchmarks/cpu).
    """
    pod = Pod(engine, images.step, make_volume(folder / "volume"))
    prepared(pod)
    alone = trained(pod, "alone", steps=4)
    for one in beside(pod, ("first", "second"), steps=4):
        assert one.cpu_seconds < 2 * alone.cpu_seconds
