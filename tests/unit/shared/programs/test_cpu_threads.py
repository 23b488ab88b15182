"""Threads of programs that compute: their number, and that they sleep while they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared.programs.cpu_threads import available_cpus

VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "LOKY_")
TASK = """
from pipelines.task_side.task_entry import task
with task("train"):
    import torch
    print("threads", torch.get_num_threads())
"""
TORCH_FIRST = "import torch\n" + TASK
WORKERS = "from components.prepare.config import PrepareConfig; print(PrepareConfig(output_dir='x').workers)"


def ran(program: str, cpus: int | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the first ``cpus`` CPUs that this process may use."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)} | variables
    allowed = set(sorted(os.sched_getaffinity(0))[:cpus])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )


@pytest.mark.parametrize(
    ("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "7"}, "")]
)
def test_openmps_threads_sleep_unless_the_user_decides(given: dict[str, str], policy: str) -> None:
    answer = ran(TASK, OMP_DISPLAY_ENV="verbose", **given)  # printed by the OpenMP library when it loads
    said = dict(line.strip().split(" = ", 1) for line in answer.stderr.splitlines() if " = " in line)
    said = {name.removeprefix("[host] "): value.strip("'") for name, value in said.items()}
    if policy:
        assert said["OMP_WAIT_POLICY"] == policy
    if policy == "PASSIVE":
        assert said["GOMP_SPINCOUNT"] == "0"
    if "GOMP_SPINCOUNT" in given:
        assert said["GOMP_SPINCOUNT"] == "7"


@pytest.mark.slow
@pytest.mark.parametrize("program", [TASK, TORCH_FIRST])
def test_torch_has_as_many_threads_as_the_quota_allows(program: str) -> None:
    # LOKY_MAX_CPU_COUNT simulates the quota; tests/docker/test_cpu_quota.py tests the real one, in a container.
    assert "threads 1" in ran(program, LOKY_MAX_CPU_COUNT="1").stdout
    users = min(2, os.cpu_count() or 1)  # MKL uses at most as many threads as there are cores
    assert f"threads {users}" in ran(program, LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="2").stdout


def test_prepare_starts_as_many_workers_as_affinity_and_quota_allow() -> None:
    assert ran(WORKERS).stdout == f"{available_cpus()}\n"
    assert ran(WORKERS, cpus=1).stdout == "1\n"
    assert ran(WORKERS, LOKY_MAX_CPU_COUNT="1").stdout == "1\n"


def test_the_packaged_script_waits_passively_too() -> None:
    script = Path(__file__).parents[4] / "components" / "export" / "package" / "scripts" / "inference.py"
    program = f"import os, runpy; runpy.run_path({str(script)!r}); print(os.environ.get('OMP_WAIT_POLICY'))"
    assert ran(program).stdout == "PASSIVE\n"
    assert ran(program, KMP_BLOCKTIME="1").stdout == "None\n"
