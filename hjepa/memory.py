"""Memory of the process on the CPU: what a step frees is kept for the next one, and pages are large."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# glibc's mallopt(3). Its largest threshold is half of a heap of 64 MiB.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_THRESHOLD, _TOP_PAD = 32 * 2**20, 64 * 2**20

_FORDBLKS = 8  # its place in `struct mallinfo2`
_MUCH = 256 * 2**20
"""Bytes that may stay free from run to run, since those that are returned are fetched again, page by page."""

TUNABLES, HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
"""The variable that glibc reads as a process begins, and what it says of huge pages in it."""
SINCE = 2, 35
"""Version of glibc that reads it first."""
BEGUN_ANEW = "HJEPA_BEGUN_ANEW"
"""Variable with the number of the process that has begun anew for them."""
KERNEL = Path("/sys/kernel/mm/transparent_hugepage")
LARGEST_PAGE = 2 * 2**20  # some kernels for ARM have pages of 512 MiB, of which a process would hold dozens


def keep_freed() -> None:
    """Have glibc keep memory that is freed from now on, in blocks of up to 32 MiB; with another libc nothing.

    By default it returns large blocks to the system, and every step fetches them again, page by page. What is
    free at the time of the call is returned where it is much, so that a process does not hold what an earlier
    run needed.
    """
    libc = _glibc()
    if libc is None:
        return
    if _free_bytes(libc) > _MUCH:
        libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)


def huge_pages() -> dict[str, str]:
    """Variables for the environment of a new process whose memory shall come in huge pages.

    A step looks up fewer addresses by them; docs/performance.md has how much faster it is. Empty where they
    would do nothing (another libc, or one before 2.35; a kernel that gives such pages to every process, or to
    none), and where the environment says already whether they are wanted: who does not want them sets
    GLIBC_TUNABLES=glibc.malloc.hugetlb=0.
    """
    given = os.environ.get(TUNABLES, "")
    libc, version = platform.libc_ver()
    if libc != "glibc" or HUGE in given or tuple(map(int, version.split(".")[:2])) < SINCE:
        return {}
    try:
        asked_for = "[madvise]" in (KERNEL / "enabled").read_text()
        size = int((KERNEL / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return {}
    if not asked_for or size > LARGEST_PAGE:
        return {}
    return {TUNABLES: ":".join(filter(None, [given, f"{HUGE}=1"]))}


@contextmanager
def with_huge_pages() -> Iterator[None]:
    """Processes that begin within have what `huge_pages` says, and so do those that they begin."""
    variables = huge_pages()
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def take_huge_pages() -> None:
    """Begin this process anew, as the same command, with what `huge_pages` says, if anything; once.

    Only where torch is not loaded: it comes with memory of the other kind, and takes seconds to load again.
    """
    variables, me = huge_pages(), str(os.getpid())
    if not variables or not sys.executable or "torch" in sys.modules:
        return
    if os.environ.get(BEGUN_ANEW) == me:  # glibc takes its variable away from a Python that has capabilities
        return
    again = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, again, os.environ | variables | {BEGUN_ANEW: me})


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`, since 2.33: ten sizes."""

    _fields_ = (("sizes", ctypes.c_size_t * 10),)


def _free_bytes(libc: ctypes.CDLL) -> int:
    """What glibc holds and nobody uses; all there is where it cannot say."""
    if not hasattr(libc, "mallinfo2"):
        return sys.maxsize
    libc.mallinfo2.restype = _Mallinfo2
    return libc.mallinfo2().sizes[_FORDBLKS]


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
