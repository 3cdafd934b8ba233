"""The file behind a study: only ever appended to, whole lines only, and readable while it is written."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation

from orchestrator.definition import JOURNAL
from orchestrator.process.lock import KernelLock
from orchestrator.storage.disk import Patience, cut_torn_line
from orchestrator.study.attributes import EPOCH, StoredReport


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
        self._written: list[dict[str, Any]] = []
        """What has been appended and not been read back."""
        self._span = 0, 0
        """Where it begins and ends in the file."""
        self.reports: dict[int, dict[str, StoredReport]] = {}
        """What has been read of reports, by Optuna's id of the trial and by attribute."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, lines are gathered, and written at its end at once: the disk is waited for once. Until then
        nothing of them is read back. Where an error ends it nothing is written. One within another is a part
        of it."""
        if self._gathered is not None:
            yield
            return
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

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What follows that many lines. What this process has just written comes from memory."""
        written, (start, end) = self._written, self._span
        self._written = []
        place = self._log_number_offset.get(log_number_from)
        if not written and place == self._path.stat().st_size:
            return  # asked for at every look at a trial
        if not written or place != start:
            for number, log in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
                self._keep_places({number: self._log_number_offset[number]})
                yield self._put_aside(log)
            return
        self._keep_places({log_number_from: start, log_number_from + len(written): end})
        yield from map(_lean, written)

    def _keep_places(self, places: dict[int, int]) -> None:
        """Keep these places of lines in the file only; Optuna would keep all, and asks for the last again."""
        self._log_number_offset = {0: 0} | places

    def _put_aside(self, log: dict[str, Any]) -> dict[str, Any]:
        """A line as Optuna shall have it in memory: its report is kept here, until the study takes it.

        Optuna would copy a trial's attributes whenever one is added.
        """
        key = _reported(log)
        if key is None:
            return log
        self.reports.setdefault(log["trial_id"], {})[sys.intern(key)] = StoredReport.of(log["user_attr"][key])
        return log | {"user_attr": {EPOCH: None}}

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self._path, size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        start = self._span[0] if self._written and self._span[1] == size else size
        self._written = [*self._written, *logs] if start != size else logs
        self._span = start, self._path.stat().st_size


def _lean(log: dict[str, Any]) -> dict[str, Any]:
    """A line as Optuna shall have it in memory: as read back, but of reports only that there are some."""
    if _reported(log) is not None:
        return log | {"user_attr": {EPOCH: None}}
    return json.loads(json.dumps(log))


def _reported(log: dict[str, Any]) -> str | None:
    """The name of the attribute, where a line holds a report."""
    if log["op_code"] != JournalOperation.SET_TRIAL_USER_ATTR:
        return None
    (key,) = log["user_attr"]
    return key if key.startswith(EPOCH) else None
