"""A sweep's folder as text, for clusters that hand out what a job prints and no files.

Checkpoints and the model stay where they are: the study, the configs, what trials reported and the report
come along. A study in a database comes as the journal that it would have been without one, and the folder
says that it is a copy. Run as a module, it prints the bundle of the folder that it is given.
"""

import base64
import fnmatch
import hashlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from orchestrator.definition import JOURNAL
from orchestrator.space import ConfigError
from orchestrator.study.place import STORAGE, copy_in, place_of, record_of_copy
from orchestrator.study.reading import study_as_journal

if sys.version_info >= (3, 11, 4):
    import tarfile
else:  # without the filters that make unpacking safe
    from backports import tarfile  # pyright: ignore

STAYS = ("*.pt", "*.pt.unreadable", "*.lock", "lock", "model", ".*", "tracking.log")
"""Names of files and folders that are not taken along."""
FETCHED = ".fetched"
"""Marks a folder as a copy; a copy may be replaced by a newer one. Where the study is in a database, it holds
the digest of the journal that was made of it."""
LINE = 3 * 1024  # bytes in a line


class NotACopyError(Exception):
    """A folder that a copy may not replace; says why."""


def to_lines(folder: Path) -> Iterator[str]:
    """The bundle of a sweep's folder: a digest, and then its bytes.

    Raises ConfigError where there is no such folder, or its study is in a database and cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no {folder} there: its job has not begun, or could not; `logs` tells.")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, content, written_at in _contents(folder):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), int(written_at)
            archive.addfile(member, io.BytesIO(content))
    packed = buffer.getvalue()
    yield hashlib.sha256(packed).hexdigest()
    for start in range(0, len(packed), LINE):
        yield base64.b64encode(packed[start : start + LINE]).decode("ascii")


def _contents(folder: Path) -> Iterator[tuple[str, bytes, float]]:
    """Name, bytes and time of each file; read whole, for one may grow while it is packed."""
    instead = _from_database(folder)
    for name, content in instead.items():
        yield name, content, (folder / STORAGE).stat().st_mtime
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        stays = any(fnmatch.fnmatch(part, pattern) for part in inside.parts for pattern in STAYS)
        if file.is_file() and not stays and inside.as_posix() not in instead:
            yield inside.as_posix(), file.read_bytes(), file.stat().st_mtime


def _from_database(folder: Path) -> dict[str, bytes]:
    """Files that a copy has in place of a study in a database; none where there is no such study."""
    place = place_of(folder, None) if (folder / STORAGE).exists() else None
    if place is None:
        return {}
    record = record_of_copy(place).encode("utf-8")  # before the study: it is no older than it says
    return {JOURNAL: study_as_journal(folder, place), STORAGE: record}


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
            archive.extractall(fresh, filter=_as_the_umask_says)
        if not fresh.exists():
            raise ValueError("there is nothing in it")
        (fresh / FETCHED).write_text(_digest(fresh / JOURNAL) if copy_in(fresh) else "", encoding="ascii")
        if folder.exists():
            _require_older_copy(folder, fresh)
            folder.rename(scratch / "old")
        fresh.rename(folder)
    finally:
        if (scratch / "old").exists() and not folder.exists():
            (scratch / "old").rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)


def _as_the_umask_says(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Who may read a file here is the umask's to say."""
    return tarfile.data_filter(member, folder).replace(mode=None)  # pyright: ignore[reportArgumentType]


def _require_older_copy(folder: Path, fresh: Path) -> None:
    if not (folder / FETCHED).exists():
        raise NotACopyError("holds a sweep that was not fetched")
    before, now = folder / JOURNAL, fresh / JOURNAL
    arrived = (folder / FETCHED).read_text(encoding="ascii")
    if arrived:
        _require_as_it_arrived(folder, arrived)
        if not now.exists() or _first_line(before) != _first_line(now):
            raise NotACopyError("holds a copy of another sweep of that name")
    elif before.exists():
        whole, newline, _ = before.read_bytes().rpartition(b"\n")
        if not now.exists() or not now.read_bytes().startswith(whole + newline):
            raise NotACopyError("holds a copy that has gone on here")


def _require_as_it_arrived(folder: Path, arrived: str) -> None:
    """Of a database the journal is made anew for each copy, and need not begin as the last one did."""
    if copy_in(folder) is None or _digest(folder / JOURNAL) != arrived:
        raise NotACopyError("holds a copy that has gone on here")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "none"


def _first_line(file: Path) -> bytes:
    return file.read_bytes().partition(b"\n")[0]


def main(folder: Path) -> int:
    """Print the bundle of `folder`, or why there is none; the exit status."""
    warnings.simplefilter("ignore")  # a job's log has both streams, and this one is for the bundle
    try:
        lines = list(to_lines(folder))
    except ConfigError as error:
        print(error)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
