"""Memory of the process on the CPU: what a step frees is kept for the next one."""

import ctypes
import sys

# glibc's mallopt(3). Its largest threshold is half of a heap of 64 MiB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_THRESHOLD, _TOP_PAD = 32 * 2**20, 64 * 2**20


def keep_freed() -> None:
    """Have glibc keep memory that is freed from now on, in blocks of up to 32 MiB; with another libc nothing.

    By default it returns large blocks to the system, and every step fetches them again, page by page. What is
    free at the time of the call is returned, so that a process does not hold what an earlier run needed.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
