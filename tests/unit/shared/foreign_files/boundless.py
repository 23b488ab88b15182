"""Reading functions for tests of the reader: some never end, take all memory or end their process."""

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from components.shared.errors import UserError
from components.shared.foreign_files.reading_child import part_read


class UnpicklableError(Exception):
    """Its pickle cannot be read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def read(workplace: Any, task: str) -> Iterator[Any]:
    """Yield two items, with what the task asks for in between."""
    yield f"{task} begins"
    DEEDS.get(task, lambda: None)()
    yield workplace if task == "workplace" else f"{task} ends"


def compute() -> None:
    while True:
        pass


def compute_in_c() -> None:
    re.match(r"(x+x+)+y", "x" * 200)  # holds Python's lock, for longer than anybody lives


def allocate() -> None:
    blocks = []
    while True:
        blocks.append(bytearray(2**24))


def allocate_in_c() -> None:
    """Do what C libraries do: go on without the memory, and die."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while block := libc.malloc(2**24):
        ctypes.memset(block, 1, 2**24)
    ctypes.string_at(0)


def parts() -> None:
    """Take longer than one item may, in parts that may."""
    for _ in range(4):
        spend(0.5)
        part_read()


def spend(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def raise_user_error() -> None:
    raise UserError("it is broken", where="a.pdf", mend="make it again")


def raise_unpicklable() -> None:
    raise UnpicklableError("a", "b")


def talk() -> None:
    for number in range(20_000):
        print("warning", number, "of a library", file=sys.stderr)
    os.write(1, b"to the standard output")


DEEDS = {
    "compute": compute,
    "compute in C": compute_in_c,
    "allocate": allocate,
    "allocate in C": allocate_in_c,
    "die": lambda: os._exit(7),
    "crash": lambda: ctypes.string_at(0),
    "parts": parts,
    "user error": raise_user_error,
    "unpicklable error": raise_unpicklable,
    "talk": talk,
}


def large(workplace: Any, task: int) -> Iterator[bytes]:
    yield bytes(task)


def large_from_large(workplace: Any, task: bytes) -> Iterator[bytes]:
    for _ in range(3):
        yield task[:1] * 2**20


def double(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    if number == 0:
        os._exit(3)
    return 2 * number


def pid() -> int:
    return os.getpid()
