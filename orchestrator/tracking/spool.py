"""The tracking spool: what a sweep has to say to MLflow, on local disk until it is delivered.

`tracking.jsonl` holds one JSON record per line and is only ever appended to, by the sweep's driver.
`tracking.cursor.json` says how far the drainer has delivered it. Nothing here knows MLflow.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.storage.disk import BLOCK, cut_torn_line

SPOOL = "tracking.jsonl"
CURSOR = "tracking.cursor.json"
PARENT = ""
"""Stands for the parent run where records and cursor name a trial."""

Record = dict[str, Any]


class SpoolWriter:
    """Appends records to `path`; one writer at a time.

    A record is one write() of one line: it survives the death of the process, and a reader never takes
    half of it for a whole one. Opening cuts off a last line torn by a crash.
    """

    def __init__(self, path: Path):
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        cut_torn_line(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record. Values JSON does not know are kept as their `str`.

        Raises OSError if the disk does not take it; the spool then is as it was before.
        """
        line = json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        os.close(self._fd)


def read(path: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[int, Record]]:
    """Records of `path` from byte `offset` on, each with the offset of its end; at most `limit`.

    Stops before a last line that is still being written. A line that is no JSON object (a damaged
    disk) comes as a record of kind "damaged".
    """
    if not path.exists():
        return
    with path.open("rb") as spool:
        spool.seek(offset)
        for line in islice(spool, limit):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, _parse(line)


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) and "kind" in record else {"kind": "damaged"}


@dataclass
class Cursor:
    """How much of the spool one store has; kept in the spool's folder."""

    store: str
    """The MLflow store it speaks of, without credentials."""
    offset: int = 0
    """Bytes of the spool delivered."""
    session: str = ""
    """The driver's session in which `offset` lies."""
    runs: dict[str, str] = field(default_factory=dict)
    """Trial id (or PARENT) -> MLflow run id."""
    running: list[str] = field(default_factory=list)
    """Keys of `runs` that the store holds as RUNNING."""
    refused: int = 0
    """Records that the store would not take."""
    uri: str = ""
    """How the store was named last, with its user and without secrets. Empty: by an older version."""

    @classmethod
    def load(cls, folder: Path) -> "Cursor | None":
        """The folder's cursor; None if there is none, power failed before it reached the disk, or another
        version wrote it."""
        try:
            return cls(**json.loads((folder / CURSOR).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, folder: Path) -> None:
        """Replace the folder's cursor, whole or not at all."""
        new = folder / f"{CURSOR}.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(folder / CURSOR)

    def advance(self, delivered: Sequence[tuple[int, Record]]) -> None:
        """Past `delivered`, as `read` gave it."""
        self.offset = delivered[-1][0]
        for _, record in delivered:
            if record["kind"] == "open":
                self.session = record["session"]

    def rewind(self) -> None:
        """Back to the start of the spool: the store has nothing of it."""
        self.offset, self.session, self.runs, self.running, self.refused = 0, "", {}, [], 0


def opening(path: Path) -> Record | None:
    """The first record of kind "open", which names the spool's sweep; None in a new spool."""
    return next((record for _, record in read(path) if record["kind"] == "open"), None)


def undelivered(folder: Path) -> int:
    """Number of records in the folder's spool that MLflow does not have yet."""
    cursor, spool = Cursor.load(folder), folder / SPOOL
    if not spool.exists():
        return 0
    with spool.open("rb") as file:
        file.seek(cursor.offset if cursor else 0)
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
