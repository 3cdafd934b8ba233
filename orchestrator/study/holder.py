"""Who runs a sweep: one process at a time, told by a lock in its folder that dies with it."""

import fcntl
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.space import ConfigError

PATIENCE_S = 1.0
"""How long a sweep tries to take its lock: `status` holds it for an instant to see whether it is free."""


@dataclass(frozen=True)
class Holder:
    """Who runs a sweep."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @classmethod
    def this(cls) -> "Holder":
        """This process, from now on."""
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))

    @classmethod
    def parse(cls, text: str) -> "Holder | None":
        """From what a holder has written; None where it has not yet."""
        found = re.fullmatch(r"process (\d+) on (\S+) since (.+)", text.strip())
        return cls(int(found[1]), found[2], found[3]) if found else None


class SweepLock:
    """Held while a process runs a sweep; names its holder."""

    def __init__(self, folder: Path):
        """Raises ConfigError, naming the holder, where another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "lock").open("a+", encoding="utf-8")
        deadline = time.monotonic() + PATIENCE_S
        while not _taken(self._file.fileno()):
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise ConfigError(f"{folder}: this sweep is running already: {holder}.")
            time.sleep(0.05)
        self._file.truncate(0)
        self._file.write(str(Holder.this()))
        self._file.flush()

    def release(self) -> None:
        """Let go, if that was not done."""
        if self._file.closed:
            return
        with suppress(OSError):
            self._file.truncate(0)
        self._file.close()


def holder(folder: Path) -> Holder | None:
    """Who runs the sweep in `folder` at this moment; None where nobody does."""
    path = folder / "lock"
    deadline = time.monotonic() + PATIENCE_S
    while path.exists():
        with path.open("r", encoding="utf-8") as file:
            if _taken(file.fileno(), fcntl.LOCK_SH):
                return None
            found = Holder.parse(file.read())
        if found is not None or time.monotonic() > deadline:
            return found or Holder(0, "an unknown host", "an unknown time")
        time.sleep(0.05)  # it has the lock and is about to write its name
    return None


def _taken(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
