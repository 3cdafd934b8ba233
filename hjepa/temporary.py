"""Files and folders that get their name when they are whole, and what is left of those that never did.

The name of one in the making says on which machine, since which start of it; a lock on it says that
somebody is at it. So what a killed process has left can be told from what is still being written.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_SUFFIX = ".tmp"
_ABANDONED_S = 86_400.0
"""Seconds without a write after which what another boot or machine left is nobody's."""


@contextmanager
def temporary(path: Path, folder: bool = False) -> Iterator[Path]:
    """A new file, or `folder`, beside `path` and hidden, to be renamed to it; removed at the end if it is
    still there."""
    made, handle = _made(path, folder)
    try:
        yield made
    finally:
        _remove(made)
        os.close(handle)  # which gives the lock back, as the end of a process does


def is_replaceable(path: Path) -> bool:
    """Whether a file may take the name: not where it is a device's, as /dev/stdout, a pipe's or a link's."""
    return not path.is_symlink() and (path.is_file() or path.is_dir() or not path.exists())


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which at the end is flushed to disk and named `path`. Makes its folder.

    What is not to be replaced is written itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_replaceable(path):
        with path.open("wb") as file:
            yield file
        return
    with temporary(path) as made:
        with made.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove what fits `pattern` in `folder` and nobody is at any more.

    Of this machine's own since it started, that is whatever `temporary` made for a process that has ended;
    of all else, what has not been written to for a day.
    """
    for file in folder.glob(pattern):
        with suppress(OSError):  # another user's, or gone
            ours = file.suffix == _SUFFIX and f".{boot()}." in file.name
            if ours or time.time() - file.stat().st_mtime > _ABANDONED_S:
                _remove_unless_held(file, told_by_lock=ours)


def boot() -> str:
    """A name for this user and this run of the machine; where the system has none, for this process."""
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        found = f"process-{os.getpid()}"
    return f"{found}-{os.getuid()}"


def _made(path: Path, folder: bool) -> tuple[Path, int]:
    """A file or folder, and a handle that holds its lock. Who may read it is the umask's to say."""
    while True:
        made = path.parent / f".{path.name}.{boot()}.{secrets.token_hex(4)}{_SUFFIX}"
        if folder:
            made.mkdir()
        handle = os.open(made, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if made.exists():  # not taken for abandoned before it was locked
            return made, handle
        os.close(handle)


def _remove_unless_held(file: Path, told_by_lock: bool) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # held, or a file system without locks
            if told_by_lock or isinstance(error, BlockingIOError):
                return
        _remove(file)
    finally:
        os.close(handle)


def _remove(made: Path) -> None:
    if made.is_dir():
        shutil.rmtree(made, ignore_errors=True)
    else:
        made.unlink(missing_ok=True)
