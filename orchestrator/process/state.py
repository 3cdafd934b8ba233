"""The private folder of a user's sweeps, and what processes keep in it while they live.

The folder may be on a disk that several machines see, or several containers of one: a process's number says
nothing there. Each process holds a lock beside what is its own, and the kernel lets go of it at its end.
"""

import contextlib
import fcntl
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from orchestrator.space import ConfigError

OWNER = ".owner"
"""What is added to a folder's name for the file that its process has locked."""
QUIET_S = 7 * 86_400.0
"""Seconds in which nothing was written to a Ray's folder of an older version, after which no machine runs it:
its logs go on every minute."""


def state_folder() -> Path:
    """Private folder for sockets, logs and scratch: $HJEPA_STATE_DIR, or hjepa in the user's state folder.

    Raises ConfigError where there is neither that nor a home folder.
    """
    if given := os.environ.get("HJEPA_STATE_DIR"):
        return Path(given).absolute()  # as Ray wants it
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state").absolute() / "hjepa"
    except RuntimeError:  # of a user without an entry, as in a container
        raise ConfigError("HJEPA_STATE_DIR: there is no home folder; set it or HOME.") from None


class OwnFolder:
    """An empty folder of this process's own until it is removed, as at the end of `with`.

    It has to be kept hold of: the lock goes with it. What killed processes of this machine left goes first.
    """

    def __init__(self, kind: str):
        """Its name begins with the letter `kind`, and is short, for Ray's sockets lie below it."""
        top = state_folder()
        top.mkdir(parents=True, exist_ok=True, mode=0o700)
        top.chmod(0o700)  # Ray opens its own folder below to everybody
        for left in top.glob(f"*{OWNER}"):
            _remove_if_left(left)
        for old in top.glob("r[0-9]*"):
            _remove_if_forgotten(old)
        while not self._claim(top / f"{kind}{secrets.token_hex(2)}"):
            pass

    def _claim(self, path: Path) -> bool:
        """Whether the folder was free, and is this process's now."""
        self.path, self._owner = path, path.with_suffix(OWNER)
        try:
            self._lock: IO[bytes] = self._owner.open("xb", buffering=0)
        except FileExistsError:
            return False
        # Where there are no locks it names no machine, and nobody else removes it.
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._lock.write("\n".join(_machine()).encode())
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            self._let_go()
            return False
        return True

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._let_go()

    def _let_go(self) -> None:
        self._owner.unlink(missing_ok=True)
        self._lock.close()


def _remove_if_left(owner: Path) -> None:
    """Remove a folder whose process has died, where that is sure.

    A lock that can be had is no proof by itself: some network file systems keep locks on each machine apart.
    """
    with contextlib.suppress(OSError), owner.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder, theirs = owner.with_suffix(""), file.read().split("\n")
        if not any(one and one == other for one, other in zip(_machine(), theirs, strict=False)):
            return
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            owner.unlink(missing_ok=True)


def _remove_if_forgotten(folder: Path) -> None:
    """Remove what an older version's Ray left, where that is sure: such a folder is named by its process's
    number, has no lock beside it and tells no machine."""
    number = folder.name.removeprefix("r")
    if not number.isdecimal() or folder.with_suffix(OWNER).exists() or folder.is_symlink():
        return
    with contextlib.suppress(OSError):
        if folder.stat().st_uid != os.getuid() or not _is_rays(folder) or _runs(int(number)):
            return
        if time.time() - max(_written_s(folder)) > QUIET_S:
            shutil.rmtree(folder, ignore_errors=True)


def _is_rays(folder: Path) -> bool:
    return bool({"session_latest", "token"} & {entry.name for entry in folder.iterdir()})


def _runs(number: int) -> bool:
    """Whether a process has this number here; not whether it is the one that is meant."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _written_s(folder: Path) -> Iterator[float]:
    """When each file and folder from `folder` on was written, Unix time."""
    for top, _, files in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in files)):
            yield os.lstat(path).st_mtime


def _machine() -> tuple[str, str]:
    """This machine's name, and its kernel's since it was booted, which containers share."""
    return platform.node(), boot_id()


def boot_id() -> str:
    """The running kernel's own name for itself, another at each start; empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
