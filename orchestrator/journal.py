"""The file behind a study: only ever appended to, whole lines only, and readable while it is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from orchestrator.disk import Patience, cut_torn_line
from orchestrator.lock import KernelLock

JOURNAL = "study.journal"


class JournalLock(KernelLock, BaseJournalFileLock):
    """Held for a single write of the journal.

    Optuna's own locks are files, which a killed process leaves behind; a resumed sweep would wait for
    ever.
    """


class Journal(JournalFileBackend):
    """Optuna's journal of a sweep's folder, by the one process that writes it."""

    def __init__(self, folder: Path, patience: Patience):
        """Cuts off a last line that a crash left half-written: Optuna would append to it and read neither."""
        self._path, self._patience = folder / JOURNAL, patience
        cut_torn_line(self._path)
        super().__init__(str(self._path), JournalLock(self._path.with_suffix(".lock")))
        self._gathered: list[dict[str, Any]] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, lines are gathered, and written at its end at once: the disk is waited for once. Until then
        nothing of them is read back. Where an error ends it nothing is written."""
        assert self._gathered is None, "not within another one"
        self._gathered = []
        try:
            yield
            gathered = self._gathered
        finally:
            self._gathered = None
        if gathered:
            self.append_logs(gathered)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append, and wait where the disk is full."""
        if self._gathered is not None:
            self._gathered += logs
            return
        self._patience(lambda: self._append(logs))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self._path, size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
