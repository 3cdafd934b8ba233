"""What hinders writing: a disk that is full, a torn last line, a database or store that is away."""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

PAUSE_S = 1.0
BLOCK = 64 * 1024

# EFBIG is the shell's `ulimit -f`; like a quota it ends when somebody raises it.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Result = TypeVar("Result")


class Away(OSError):
    """The database of a study does not answer."""


class StoreAway(OSError):
    """The store of the checkpoints does not answer, or asks to be left alone for a while."""


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of space."""
    return error.errno in _FULL


def awaited(error: OSError) -> str | None:
    """What has to come true for a failed write to succeed; None where waiting does not help."""
    if isinstance(error, Away):
        return "the study's database answers"
    if isinstance(error, StoreAway):
        return "the checkpoints' store answers"
    return "there is space" if is_full(error) else None


class Patience:
    """Repeats a write that finds no space, or no database, until there is some.

    The write must leave the file as it was where it fails.
    """

    def __init__(self, pause: Callable[[float], None] = time.sleep):
        """`pause` sleeps for so many seconds, or raises to give up."""
        self._pause = pause
        self.say: Callable[[str], None] = lambda text: tell(text, sys.stderr)

    def __call__(self, write: Callable[[], Result]) -> Result:
        """The result of `write`. Raises what it raises, but for what passes by."""
        waiting = None
        while True:
            try:
                result = write()
            except OSError as error:
                passing = awaited(error)
                if passing is None:
                    raise
                if waiting is None:
                    self.say(f"the sweep pauses until {passing}: {explain(error)}")
                waiting = passing
                self._pause(PAUSE_S)
                continue
            if waiting is not None:
                self.say(f"{waiting} again: the sweep goes on")
            return result


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once, to standard output; where that is a file on a full disk, with a later line."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if not is_full(error):
            raise


def explain(error: OSError) -> str:
    """What could not be written, and why."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def cut_torn_line(path: Path) -> None:
    """Shorten a file of lines to its last whole one."""
    if path.exists() and (size := whole_bytes(path)) < path.stat().st_size:
        os.truncate(path, size)


def whole_bytes(path: Path) -> int:
    """Length of a file of lines up to and including its last newline."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
