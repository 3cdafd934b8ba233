"""The lines of a sweep that is not watched on a terminal."""

import errno
import io
import sys
import threading

import pytest

from orchestrator.watching import progress
from orchestrator.watching.progress import Counts, Lines


class FullDisk(io.StringIO):
    """A file on a disk that has no space for the time being."""

    is_full = True

    def flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_lines_that_find_no_space_are_written_with_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FullDisk()
    monkeypatch.setattr(sys, "stdout", log)
    with Lines("val/knn_top1", 3, Counts()) as lines:
        lines.note("the sweep pauses until there is space")
        log.is_full = False
        lines.note("there is space again")
    assert log.getvalue().endswith("until there is space\n[0:00] there is space again\n")


class Unread(io.StringIO):
    """A pipe whose reader has left."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = threading.Event()

    def write(self, text: str) -> int:
        self.tried.set()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_the_heartbeat_ends_quietly_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, caught = Unread(), []
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(progress, "HEARTBEAT_S", 1.0)
    monkeypatch.setattr(threading, "excepthook", caught.append)
    with Lines("val/knn_top1", 3, Counts()) as lines:
        assert pipe.tried.wait(60)
        with pytest.raises(BrokenPipeError):
            lines.note("the sweep's own next line")
    assert not caught
