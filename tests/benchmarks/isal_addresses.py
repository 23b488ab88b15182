"""Shows that ``isal_zlib.compress`` depends on the address of its thread's stack, and that ``encode_png`` does not.

    python -m tests.benchmarks.isal_addresses

ISA-L hashes ``address >> 16`` of its state for a stream's third byte (docs/reliability.md). Threads with stacks at
chosen addresses pack one page: at addresses with the hash of the page's first four bytes, of its next four, and at
others.
"""

import ctypes
import hashlib
import random
from collections.abc import Callable

import numpy as np
from isal import isal_zlib

from components.prepare.output.png import encode_png

_SLOTS = 8192
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_STACK = 1 << 20
_READ_WRITE, _PRIVATE_ANONYMOUS_AT_THIS_ADDRESS = 3, 0x100022
_PAPER = 232


def slot(value: int) -> int:
    """Return the slot of four bytes: x86's instruction crc32, from 0.

    >>> slot(int.from_bytes(bytes([0, 232, 232, 232]), "little"))
    7897
    """
    for _ in range(32):
        value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    return value % _SLOTS


def on_a_stack(top: int, work: Callable[[], str]) -> str | None:
    """Return what ``work`` returns in a thread whose stack ends at ``top``; None if that memory is in use."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    start = top - _STACK
    if libc.mmap(start, _STACK, _READ_WRITE, _PRIVATE_ANONYMOUS_AT_THIS_ADDRESS, -1, 0) != start:
        return None
    attributes, thread = ctypes.create_string_buffer(64), ctypes.c_ulong()
    libc.pthread_attr_init(attributes)
    libc.pthread_attr_setstack(attributes, ctypes.c_void_p(start), ctypes.c_size_t(_STACK))
    returned: list[str] = []
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: returned.append(work()))
    if libc.pthread_create(ctypes.byref(thread), attributes, function, None):
        raise OSError("no thread on this stack")
    libc.pthread_join(thread, None)
    libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(_STACK))
    return returned[0]


def main() -> None:
    page = np.full((112, 420), _PAPER, np.uint8)
    page[20:90:3, 10:400] = np.random.default_rng(1).integers(0, 60, (24, 390), np.uint8)
    rows = np.insert(page, 0, 0, axis=1)

    def packed() -> str:
        streams = {"isal_zlib.compress": isal_zlib.compress(rows, 1), "encode_png": encode_png(page)}
        return ", ".join(f"{way} {hashlib.sha256(stream).hexdigest()[:8]}" for way, stream in streams.items())

    print(f"main thread: {packed()}")
    first, second = (int.from_bytes(rows.tobytes()[place : place + 4], "little") for place in (0, 1))
    chance = random.Random(1)
    for name, number in {"the first four bytes": slot(first), "the next four": slot(second), "others": 1234}.items():
        while (place := chance.randrange(0x100000, 0x7E000000)) and slot(place) != number:
            pass
        found = on_a_stack(((place + 2) << 16) + 0x4000, packed)  # the state lies 64 to 128 KiB below
        print(f"slot {number:4}, of {name}: {found or 'that memory is in use, run it again'}")


if __name__ == "__main__":
    main()
