"""The service with one more thread, which writes what is in its process's memory:

python docs/benchmarks/serving/counted_service.py COUNTS.json [flags of components.serve]
"""

import gc
import json
import runpy
import signal
import sys
import threading
from collections import Counter
from ctypes import CDLL, Structure, c_size_t
from pathlib import Path

_SECONDS_BETWEEN_COUNTS = 15.0


class _Mallinfo(Structure):
    """glibc's ``struct mallinfo2`` (malloc.h); sizes in bytes."""

    _arena_and_chunks = ("arena", "ordblks", "smblks", "hblks")
    _sizes = ("hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, c_size_t) for name in (*_arena_and_chunks, *_sizes)]


def serve_counted(counts: Path, flags: list[str]) -> None:
    """Be the service, with one more thread that writes what is in this process's memory."""
    mallinfo = CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo

    wanted, collections = threading.Event(), 0
    signal.signal(signal.SIGUSR1, lambda *_: wanted.set())

    def count() -> None:
        nonlocal collections
        while True:
            if wanted.is_set():
                wanted.clear()
                gc.collect()
                collections += 1
            objects = gc.get_objects()
            kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects)
            number = len(objects)
            del objects
            heap = mallinfo()
            content = {
                "collections": collections,
                "objects": number,
                "blocks": sys.getallocatedblocks(),
                "malloc_used_mib": round((heap.uordblks + heap.hblkhd) / 2**20, 3),
                "malloc_free_mib": round(heap.fordblks / 2**20, 3),
                "kinds": dict(kinds.most_common(25)),
            }
            beside = counts.with_suffix(".part")
            beside.write_text(json.dumps(content))
            beside.replace(counts)
            wanted.wait(_SECONDS_BETWEEN_COUNTS)

    threading.Thread(target=count, daemon=True, name="counts").start()
    sys.argv = ["components.serve", *flags]
    runpy.run_module("components.serve", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    serve_counted(Path(sys.argv[1]), sys.argv[2:])
