"""How many CPUs this process may use, and thread counts that keep to it.

A container with a CPU limit sees all cores of its node: libraries that start a thread per core then run many times too
many, and the kernel stops all of them for most of each period.
"""

import os
import sys

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def available_cpus() -> int:
    """Return the CPUs that affinity and the cgroup's quota (v1 and v2) allow, rounded up; at least 1."""
    from loky import cpu_count  # imported here: 0.06 s that --help does not need

    return int(cpu_count())


def limit_threads(processes: int = 1) -> None:
    """Limit the threads of OpenMP, MKL, OpenBLAS and PyTorch to the available CPUs, unless the user set their number.

    Where all of the machine's CPUs are available the libraries keep their defaults, e.g. one thread per physical core.

    Args:
        processes: how many processes share the CPUs.
    """
    cpus = max(1, available_cpus() // processes)
    if "OMP_NUM_THREADS" in os.environ or cpus >= (os.cpu_count() or 1):
        return
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(cpus))
    if torch := sys.modules.get("torch"):  # loaded already: it no longer reads the variables
        torch.set_num_threads(cpus)
