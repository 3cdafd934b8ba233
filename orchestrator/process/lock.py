"""Locks that the kernel keeps: gone with the process that holds them, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class KernelLock:
    """An exclusive lock on a file, waited for. Several may be made of one path."""

    def __init__(self, path: Path):
        self._path = path

    def acquire(self) -> bool:
        """Wait for it."""
        self._file = self._path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let go."""
        self._file.close()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for it."""
    lock = KernelLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
