"""The lines of a sweep that is not watched on a terminal."""

import errno
import io
import sys

import pytest

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
