"""How much memory this process may take, and how much was taken: by its cgroup (v1 and v2) and by the machine."""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_NO_LIMIT = 2**60
"""Bytes; cgroup v1 writes about 2**63 where there is no limit."""
_LIMIT_AND_PEAK = (("memory.max", "memory.peak"), ("memory.limit_in_bytes", "memory.max_usage_in_bytes"))


def memory_limit() -> int:
    """Return the bytes, with swap, that the machine and the cgroups of this process let it take.

    The limits of the cgroups above count too. Pages of mapped files count only while they are changed: the kernel drops
    the others where memory is short.
    """
    import psutil  # imported here: --help does not need it

    swap = psutil.swap_memory().total
    return min([psutil.virtual_memory().total + swap, *_limits_with_swap(swap)])


def memory_peak() -> int | None:
    """Return the highest use of memory in this process's cgroup, in bytes, with cached files; None if unknown.

    In a container this is the container's. It is given only where a limit is set, and for v2 from Linux 5.19 on.
    """
    for folder in _folders():
        for limit, peak in _LIMIT_AND_PEAK:
            if _number(folder / limit) is not None:
                return _number(folder / peak)
    return None


def memory_peaks() -> dict[str, int]:
    """Return the peaks of memory until now, in bytes, as fields of a log line.

    ``peak_resident_bytes`` is of this process, ``peak_container_bytes`` of its cgroup (``memory_peak``), and
    ``peak_gpu_bytes`` of its tensors on the current CUDA device; those that are unknown are left out.
    """
    peaks = {"peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if (in_container := memory_peak()) is not None:
        peaks["peak_container_bytes"] = in_container
    torch = sys.modules.get("torch")  # not imported here: without torch loaded, no GPU was used
    if torch and torch.cuda.is_initialized():
        peaks["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peaks


def memory_taken() -> int:
    """Return the bytes of this process that the kernel cannot drop: its resident memory without mapped files."""
    import psutil

    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def _limits_with_swap(swap: int) -> Iterator[int]:
    for folder in _folders():
        if (limit := _number(folder / "memory.max")) is not None:
            own = _number(folder / "memory.swap.max")
            yield limit + (swap if own is None else min(swap, own))
        elif (limit := _number(folder / "memory.limit_in_bytes")) is not None:
            with_swap = _number(folder / "memory.memsw.limit_in_bytes")
            yield limit + swap if with_swap is None else min(limit + swap, with_swap)


def _folders() -> Iterator[Path]:
    """Yield the folders of the process's memory cgroup and of those above it, where they can be seen.

    A container with cgroup v1 sees its own cgroup as the top, and in ``/proc/self/cgroup`` its path on the machine.
    """
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = ROOT / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top) and folder.is_dir())


def _number(file: Path) -> int | None:
    """Return a file's number; None if it has none (``max``), or one that is no limit, or cannot be read."""
    try:
        value = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return value if value < _NO_LIMIT else None
