"""A file of records that the processes of a node write together, one record at a time and in any order.

Beside the records lies a mark for each. A record is claimed by a lock on its mark, which ends with the
process that holds it. With the last record written the file gets its name, and the marks go.

Shape letters: M records.
"""

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from hjepa.data.cache import LABEL_TYPE, alone_with, record_type, whole, write_header, writing_in
from hjepa.temporary import boot, remove_abandoned

MISSING, GOOD, BAD = 0, 1, 2
"""Marks: not decoded yet, decoded, and cannot be decoded."""


class Partial:
    """The records of `path`, one for each of `labels_M`; what was written since the machine
    started is kept."""

    def __init__(self, path: Path, labels_M: np.ndarray, side: int):
        self.path, self.labels_M = path, labels_M
        self._type = record_type((3, side, side))
        # A file that a power cut interrupted may hold marks of records that never reached the disk, and
        # machines that share a folder see each other's pages late: either gets files of its own.
        stem = f".{path.name}.{boot()}"
        self._data, self._marks = path.with_name(f"{stem}.filling"), path.with_name(f"{stem}.marks")
        self._mutex, self._claimed = threading.Lock(), set[int]()
        # A whole file may lie where nothing can be written.
        with writing_in(path.parent), nullcontext() if whole(path) is not None else alone_with(path):
            if whole(path) is None and not self._fits():
                self._create()
            self.done = whole(path) is not None
            data = path if self.done else self._data
            self.records_M = np.lib.format.open_memmap(data, mode="r")
            self.marks_M = np.full(len(labels_M), GOOD, np.uint8)
            if not self.done:
                self._data_fd = os.open(self._data, os.O_WRONLY)
                self._marks_fd = os.open(self._marks, os.O_RDWR)
                self.marks_M = np.memmap(self._marks, np.uint8, "r+")

    def claim(self, index: int) -> bool:
        """Whether the caller alone may now write this record; if so, `write` or `leave` must follow."""
        with self._mutex:
            if index in self._claimed or not self._lock(index, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            self._claimed.add(index)
        if self.marks_M[index] == MISSING:
            return True
        self.leave(index)
        return False

    def leave(self, index: int) -> None:
        """Give a claim back."""
        with self._mutex:
            self._claimed.discard(index)
            self._lock(index, fcntl.LOCK_UN)

    def write(self, index: int, image_CSS: np.ndarray | None) -> None:
        """Store an image, or None for a bad one, which stays black. Twice does no harm: it is the same image.

        Raises ConfigError where the file cannot be written.
        """
        start, label = self._offset(index), self.labels_M[index].astype(LABEL_TYPE)
        # By a call and not into the mapping: where the disk is full, that would end the process.
        with writing_in(self.path.parent):
            if image_CSS is not None:
                _write_all(self._data_fd, np.ascontiguousarray(image_CSS).data.cast("B"), start)
            _write_all(self._data_fd, memoryview(label.tobytes()), start + self._type["image"].itemsize)
        self.marks_M[index] = BAD if image_CSS is None else GOOD

    def finish(self, save: Callable[[], None]) -> None:
        """Give the file its name, unless that was done; every record must be there. `save` comes before."""
        assert not (self.marks_M == MISSING).any()
        with writing_in(self.path.parent):
            # Renamed before its bytes are on disk, a power cut would leave a full-sized file of zeros.
            os.fsync(self._data_fd)
            with alone_with(self.path):
                if self._data.exists():
                    save()
                    if whole(self.path) is None:
                        os.replace(self._data, self.path)
                for file in (self._data, self._marks):
                    file.unlink(missing_ok=True)

    def _offset(self, index: int) -> int:
        assert isinstance(self.records_M, np.memmap)
        return self.records_M.offset + index * self._type.itemsize

    def _lock(self, index: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._marks_fd, kind, 1, index)
        except BlockingIOError:
            return False
        except OSError:
            pass  # A file system without locks: what several decode is the same.
        return True

    def _fits(self) -> bool:
        records_M, count = whole(self._data), len(self.labels_M)
        fits = records_M is not None and records_M.dtype == self._type and len(records_M) == count
        return fits and self._marks.is_file() and self._marks.stat().st_size == count

    def _create(self) -> None:
        remove_abandoned(self.path.parent, f".{self.path.name}.*")
        count = len(self.labels_M)
        self._marks.unlink(missing_ok=True)
        self._data.unlink(missing_ok=True)
        with self._data.open("wb") as file:
            write_header(file, self._type, count)
            file.truncate(file.tell() + count * self._type.itemsize)
        with self._marks.open("wb") as file:
            file.truncate(count)


def _write_all(handle: int, content: memoryview, offset: int) -> None:
    while len(content):
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
