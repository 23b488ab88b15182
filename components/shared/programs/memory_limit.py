"""Limits the memory that foreign programs may take: a chat template of one line can ask for ten gigabytes."""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_one_at_a_time = threading.Lock()


@contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Let this process take so many more bytes within the block: beyond them Python raises MemoryError.

    The kernel counts the memory of all threads (RLIMIT_DATA, since Linux 4.7), so keep the block short. Elsewhere there
    is no limit.
    """
    if sys.platform != "linux":
        yield
        return
    with _one_at_a_time:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        set_data_limit(data_bytes() + more_bytes)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def set_data_limit(allowed: int) -> None:
    """Set the soft RLIMIT_DATA to ``allowed``, or to the limit that there is if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard, allowed) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))


def data_bytes() -> int:
    """Return the private writable memory that this process has mapped (proc(5), VmData)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
