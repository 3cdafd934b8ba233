"""Folders of one name, numbered beside each other, and a run's claim on one."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Self

LOCK = ".lock"
"""In a claimed folder: the config of the run that has it, as YAML. Gone when the run ends well."""


class TakenError(Exception):
    """A folder that another run has; the text says which process's."""


class Claim:
    """A folder that no other run may have until `release`, or until this process has ended."""

    def __init__(self, folder: Path, text: str):
        """Makes the folder; `text`, YAML, can be read in LOCK there.

        Raises TakenError, and OSError where the folder cannot be written.
        """
        self.folder = folder
        self._made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = re.match(r"# (process .+)", self._file.readline())
            self._file.close()
            raise TakenError(holder[1] if holder else "another process") from None
        except OSError:  # some network file systems lock no files
            pass
        if not _is_at(self._file.fileno(), folder / LOCK):  # its run has let go of it just now
            self._file.close()
            raise TakenError("another process")
        self._file.truncate(0)
        self._file.write(f"# process {os.getpid()} on {socket.gethostname()}\n{text}")
        self._file.flush()

    def release(self) -> None:
        """Let go; the folder goes too where it was made for the claim and nothing came into it."""
        (self.folder / LOCK).unlink(missing_ok=True)
        self._file.close()
        if self._made and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def claim_free(folder: Path, text: str) -> Claim:
    """Claim the first of folder, folder-2, folder-3, ... that is empty or missing and not another run's."""
    for candidate in numbered(folder):
        if is_used(candidate):
            continue
        try:
            claim = Claim(candidate, text)
        except TakenError:
            continue
        if not is_used(candidate):  # by a run that ended since
            return claim
        claim.release()
    raise AssertionError


def free_folder(folder: Path) -> Path:
    """The first of folder, folder-2, folder-3, ... that is empty or missing."""
    return next(candidate for candidate in numbered(folder) if not is_used(candidate))


def siblings(folder: Path) -> list[Path]:
    """Those of folder, folder-2, folder-3, ... that are there, in this order."""
    found = {1: folder} if folder.is_dir() else {}
    if folder.parent.is_dir():
        for beside in folder.parent.iterdir():
            number = beside.name.removeprefix(f"{folder.name}-")
            if number != beside.name and number.isdecimal() and beside.is_dir():
                found[int(number)] = beside
    return [found[number] for number in sorted(found)]


def is_used(folder: Path) -> bool:
    """Whether a folder is there and holds more than the lock of a claim."""
    return folder.exists() and any(file.name != LOCK for file in folder.iterdir())


def numbered(folder: Path) -> Iterator[Path]:
    """folder, folder-2, folder-3, ... on and on."""
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
