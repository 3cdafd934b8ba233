"""Decoded images and labels on disk, memory-mapped so that the processes of a node share pages.

Images and labels of a set are one array of records in one `.npy`: written together, never mixed.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hjepa.schema import ConfigError
from hjepa.temporary import remove_abandoned, temporary

LABEL_TYPE = np.dtype("<i2")
MOST_CLASSES = int(np.iinfo(LABEL_TYPE).max)
NO_LABEL = -1
"""Class of an image that has none."""
_PATIENCE_S = 3.0
"""Seconds of waiting for another process before a line says so."""

log = logging.getLogger(__name__)


def records(images_MCHW: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
    """uint8 images and their classes as records with the fields `image` and `label`."""
    found_M = np.empty(len(images_MCHW), record_type(images_MCHW.shape[1:]))
    found_M["image"] = images_MCHW
    found_M["label"] = labels_M
    return found_M


def record_type(shape_CHW: tuple[int, ...]) -> np.dtype:
    """A record with an image of that shape."""
    return np.dtype([("image", np.uint8, shape_CHW), ("label", LABEL_TYPE)])


def require_classes_fit(count: int, where: str) -> None:
    """Raises ConfigError where a data set has more classes than a record's label can tell apart."""
    if count > MOST_CLASSES:
        raise ConfigError(f"{where} has {count:,} classes; {MOST_CLASSES:,} is the most.")


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/hjepa`, or `~/.cache/hjepa`. Raises ConfigError where there is no home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hjepa"
    except RuntimeError:  # of a user without an entry, as in a container
        raise ConfigError("data.cache_dir: there is no home folder; set this key or HOME.") from None


def mapped(path: Path, build: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """The records stored at `path`, read-only and memory-mapped; built first where they are not there.

    `build` gives them a chunk at a time, at least one. A file that is cut short or no array of records is
    built again. Of several processes that call this at once one builds and the others wait for it. Raises
    ConfigError where the folder cannot be written.
    """
    found_M = whole(path)
    if found_M is None:
        with writing_in(path.parent), alone_with(path):
            if whole(path) is None:
                remove_abandoned(path.parent, f".{path.name}.*")
                _write(path, build())
        found_M = whole(path)
        assert found_M is not None, path
    return found_M


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Within, what the system refuses is a ConfigError about the folder of decoded images."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir: {folder} cannot be written: {error.strerror or error}.\n"
            "Set data.cache_dir to a folder with room for the decoded images."
        ) from None


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Within, no other process is within for the same cache file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = _locked(lock, path)
    try:
        yield
    finally:
        # While it is held: whoever waits for it sees that it is gone, and makes another.
        with suppress(OSError):
            lock.unlink()
        os.close(handle)  # which gives the lock back, as the end of a process does


def _locked(lock: Path, path: Path) -> int:
    """A handle that holds the lock. Where the file system has none each process builds, as it safely may."""
    while True:
        handle = _opened(lock)
        try:
            _wait_for(handle, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), lock.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(lock: Path) -> int:
    while True:
        with suppress(FileNotFoundError):
            try:
                return os.open(lock, os.O_RDWR)  # as network file systems want it of whoever locks
            except PermissionError:  # another user's
                return os.open(lock, os.O_RDONLY)
        with suppress(FileExistsError):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.fchmod(handle, 0o644)
            return handle


def _wait_for(handle: int, path: Path) -> None:
    with suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = threading.Timer(
                _PATIENCE_S, log.warning, ("waits for another process that decodes %s", path)
            )
            try:
                told.start()
                fcntl.flock(handle, fcntl.LOCK_EX)
            finally:
                told.cancel()


def whole(path: Path) -> np.ndarray | None:
    """The records stored at `path`, mapped; None where it is no whole file of them."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # noqa: BLE001 (a damaged header can raise any exception; the file is built again)
        return None
    kind = found.dtype
    if kind.names != ("image", "label") or found.ndim != 1 or len(found) == 0:
        return None
    is_records = kind["image"].base == np.uint8 and kind["label"] == LABEL_TYPE
    is_whole = found.offset + found.nbytes == path.stat().st_size
    return found if is_records and is_whole else None


def _write(path: Path, chunks: Iterable[np.ndarray]) -> None:
    with temporary(path) as made:
        with made.open("wb") as file:
            _write_npy(file, chunks)
            file.flush()
            # Renamed before its bytes are on disk, a power cut would leave a full-sized file of zeros.
            os.fsync(file.fileno())
        made.chmod(0o644)  # its 0600 would shut out others who share the folder
        # What another process finished meanwhile may be mapped already: replacing it would end sharing.
        if whole(path) is None:
            os.replace(made, path)


def _write_npy(file: BinaryIO, chunks: Iterable[np.ndarray]) -> None:
    """One `.npy` of all chunks, whose number of records is known at the end only."""
    count, dtype = 0, None
    for chunk in chunks:
        if dtype is None:
            dtype = chunk.dtype
            write_header(file, dtype, 0)
        file.write(chunk.view(np.uint8).data)
        count += len(chunk)
    assert dtype is not None, "no records"
    file.seek(0)
    write_header(file, dtype, count)


def write_header(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    """The beginning of a `.npy` of so many records."""
    # numpy pads for the number of records to grow, so the second header is as long as the first.
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
