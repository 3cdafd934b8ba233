"""A sweep's folder as text, for clusters that hand out what a job prints and no files.

Checkpoints and the model stay where they are: the study, the configs, what trials reported and the report
come along. Run as a module, it prints the bundle of the folder that it is given.
"""

import base64
import fnmatch
import hashlib
import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.definition import JOURNAL

STAYS = ("*.pt", "*.lock", "lock", "model", ".*", "tracking.log")
"""Names of files and folders that are not taken along."""
FETCHED = ".fetched"
"""Marks a folder as a copy; a copy may be replaced by a newer one."""
LINE = 3 * 1024  # bytes in a line


class NotACopyError(Exception):
    """A folder that a copy may not replace; says why."""


def to_lines(folder: Path) -> Iterator[str]:
    """The bundle of a sweep's folder: a digest, and then its bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            if file.is_file() and not any(fnmatch.fnmatch(p, s) for p in inside.parts for s in STAYS):
                # Read first: a file that grows meanwhile would not be as long as its header says.
                content = file.read_bytes()
                member = tarfile.TarInfo(inside.as_posix())
                member.size, member.mtime = len(content), int(file.stat().st_mtime)
                archive.addfile(member, io.BytesIO(content))
    packed = buffer.getvalue()
    yield hashlib.sha256(packed).hexdigest()
    for start in range(0, len(packed), LINE):
        yield base64.b64encode(packed[start : start + LINE]).decode("ascii")


def from_text(text: str, folder: Path) -> None:
    """Put the sweep of a bundle at `folder`, in place of an older copy; whole, or not at all.

    Raises ValueError where the text is no whole bundle, NotACopyError where something else is at `folder`.
    """
    digest, *lines = text.split()
    packed = b"".join(base64.b64decode(line, validate=True) for line in lines)
    if hashlib.sha256(packed).hexdigest() != digest:
        raise ValueError("what arrived is not what was sent")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        fresh = scratch / "fresh"
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as archive:
            archive.extractall(fresh, filter="data")
        (fresh / FETCHED).touch()
        if folder.exists():
            _require_older_copy(folder, fresh)
            folder.rename(scratch / "old")
        fresh.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_older_copy(folder: Path, fresh: Path) -> None:
    if not (folder / FETCHED).exists():
        raise NotACopyError("holds a sweep that was not fetched")
    before, now = folder / JOURNAL, fresh / JOURNAL
    if before.exists():
        whole, newline, _ = before.read_bytes().rpartition(b"\n")
        if not now.exists() or not now.read_bytes().startswith(whole + newline):
            raise NotACopyError("holds a copy that has gone on here")


if __name__ == "__main__":
    for line in to_lines(Path(sys.argv[1])):
        print(line)
