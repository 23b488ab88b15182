"""Tells the C library to reuse the memory of finished pages."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_HEAP_BLOCK = 32 << 20  # glibc takes no more
_KEPT = 256 << 20


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB instead of handing each one back to the kernel.

    Each page needs several arrays of about a megabyte. Requesting them from the kernel for every page took a quarter of
    a worker's time: 4.1 ms per page instead of 2.95 (850 pages of 1024x1024, two cores). Does nothing without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
