"""What a process may take, by files as Linux writes them, and what is refused before anything is loaded."""

from pathlib import Path

import psutil
import pytest
import torch

from components.shared import memory_limits
from components.shared.memory_limits import memory_limit, memory_peak
from components.shared.models.base_models import TINY_BASE_FOLDER
from components.shared.models.weight_memory import FLOAT32, check_weights_fit, stored_values

MIB = 2**20


def cgroup(root: Path, membership: str, files: dict[str, int | str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, value in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory_limits, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("membership", "files", "limit", "peak"),
    [
        pytest.param(
            "0::/\n",
            {"memory.max": 64 * MIB, "memory.swap.max": 0, "memory.peak": 50 * MIB},
            64 * MIB,
            50 * MIB,
            id="a container with cgroup v2",
        ),
        pytest.param(
            "0::/kubepods/pod1/main\n",
            {
                "kubepods/memory.max": "max",
                "kubepods/pod1/memory.max": 48 * MIB,
                "kubepods/pod1/memory.swap.max": 0,
                "kubepods/pod1/memory.peak": 40 * MIB,
                "kubepods/pod1/main/memory.max": "max",
            },
            48 * MIB,
            40 * MIB,
            id="v2, limited by the cgroup above",
        ),
        pytest.param(
            "12:cpu,cpuacct:/docker/ab12\n4:memory:/docker/ab12\n0::/docker/ab12\n",
            {
                "memory/memory.limit_in_bytes": 32 * MIB,
                "memory/memory.memsw.limit_in_bytes": 32 * MIB,
                "memory/memory.max_usage_in_bytes": 31 * MIB,
            },
            32 * MIB,
            31 * MIB,
            id="a container with cgroup v1",
        ),
    ],
)
def test_a_cgroups_limit_and_peak_are_read(
    root: Path, membership: str, files: dict[str, int | str], limit: int, peak: int
) -> None:
    cgroup(root, membership, files)
    assert (memory_limit(), memory_peak()) == (limit, peak)


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"memory.max": "max"}),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}),
        ("0::/user.slice\n", {}),
    ],
)
def test_without_a_limit_it_is_the_machines(root: Path, membership: str, files: dict[str, int | str]) -> None:
    cgroup(root, membership, files)
    assert memory_limit() == psutil.virtual_memory().total + psutil.swap_memory().total
    assert memory_peak() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="the weights go to the GPU")
def test_only_weights_that_are_converted_need_memory_on_a_cpu(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stored_values(str(TINY_BASE_FOLDER), None)
    assert values is not None
    assert set(values) == {"BF16"}
    taken = memory_limits.memory_taken() + 8 * MIB
    cgroup(root, "0::/\n", {"memory.max": taken, "memory.swap.max": 0})
    bfloat16 = type(FLOAT32)("BF16", 2)
    check_weights_fit("tiny-base", None, bfloat16)
    with pytest.raises(Exception, match=r"^memory limit: loading the weights of tiny-base takes 0.01 GiB at least"):
        check_weights_fit("tiny-base", None, FLOAT32)
