"""A trial's checkpoints: where they are kept, and what it may go on from."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.definition import DEFINITION
from orchestrator.process.state import OwnFolder
from orchestrator.storage.store import Store, open_store

if TYPE_CHECKING:  # trial processes need neither, nor what they import
    from orchestrator.study.record import TrialRecord
    from orchestrator.study.study import Study

KEPT_CHECKPOINTS = 2
"""The newest, and the one before in case the newest is torn."""
METRICS, CONFIG = "metrics.jsonl", "config.yaml"
UNREADABLE = ".unreadable"
"""What is added to the name of a checkpoint that is torn."""


def checkpoint_name(epoch: int) -> str:
    """Name of a trial's checkpoint of `epoch`, in whichever folder."""
    return f"epoch_{epoch:05d}.pt"


def up_to(names: Sequence[str], epoch: int) -> list[str]:
    """The names of checkpoints up to `epoch`, newest first."""
    newest = checkpoint_name(epoch)
    found = [name for name in names if name.startswith("epoch_") and name.endswith(".pt") and name <= newest]
    return sorted(found, reverse=True)


def checkpoints(folder: Path, epoch: int) -> list[Path]:
    """A trial's checkpoints in its folder, up to `epoch`, newest first."""
    return [folder / name for name in up_to([path.name for path in folder.glob("epoch_*.pt")], epoch)]


def checkpoints_of(folder: Path, study: "Study", record: "TrialRecord") -> list[Path]:
    """What a trial of the sweep in `folder` may go on from, newest first; at first the files of the one that
    it takes up."""
    found = checkpoints(trial_folder(folder, record), max(record.reports, default=0))
    if not found and record.retries is not None:
        return checkpoints_of(folder, study, study.trials[record.retries])
    return found


def trial_folder(folder: Path, record: "TrialRecord") -> Path:
    """Where a trial of the sweep in `folder` keeps its files."""
    return folder / "trials" / record.id


class Checkpoints:
    """Those of a trial whose folder keeps them, for a process that runs it."""

    def __init__(self, folder: Path, resume: Sequence[str] = ()):
        """`resume` are files to go on from, newest first. Touches nothing."""
        self.folder, self.resume = folder, resume

    def begin(self, leads: bool) -> None:
        """Put the folder in order; of several processes the one that leads does."""
        if not leads:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for torn in self.folder.glob(".epoch_*.tmp"):  # of a process killed while it saved
            torn.unlink(missing_ok=True)

    def found(self) -> list[str]:
        """What the trial may go on from, newest first."""
        return list(self.resume)

    @contextmanager
    def at_hand(self, one: str) -> Iterator[Path]:
        """Within, one of these as a local file."""
        yield Path(one)

    def set_aside(self, one: str) -> None:
        """Take one that is torn out of the way."""
        path = Path(one)
        path.rename(path.with_name(path.name + UNREADABLE))

    def keep(self, save: Callable[[Path], None], epoch: int) -> None:
        """Write the checkpoint of `epoch`, and let go of those that are no longer needed."""
        save(self.folder / checkpoint_name(epoch))
        for old in checkpoints(self.folder, epoch)[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)

    def recorded(self) -> None:
        """An epoch's line has been written into the folder."""

    def close(self) -> None:
        """Leave nothing behind that is of use to this process only."""


class StoredCheckpoints(Checkpoints):
    """Those of a trial whose checkpoints are at a URL, so that any node can go on with it.

    On a node that does not see the sweep's folder, the rest of the trial's files are there too.
    """

    def __init__(self, folder: Path, resume: Sequence[str], stores: Sequence[str], reported: int):
        """`stores` are URLs to look at: first the trial's own, then those of the trials that it takes up.

        `reported` is the last epoch that the study has of the trial: what is later does not count.
        """
        super().__init__(folder, resume)
        self._urls, self._reported = stores, reported
        self._apart: OwnFolder | None = None
        """What stands in for the sweep's folder where this node does not see that."""
        self._saved = 0
        """The last epoch whose checkpoint was written here on its way to the URL."""

    @property
    def _store(self) -> Store:
        return open_store(self._urls[0])

    def begin(self, leads: bool) -> None:
        """Put the folder in order, or one in its place where the sweep's is not on this node."""
        if self._apart is None and not (self.folder.parents[1] / DEFINITION).exists():
            self._apart = OwnFolder("t")
            self.folder = self._apart.path / self.folder.name
        super().begin(leads)
        if self._apart is not None and leads and METRICS in self._store.names():
            self._store.fetch(METRICS, self.folder / METRICS)

    def found(self) -> list[str]:
        """URLs of what the trial may go on from, newest first; then what its folder has."""
        for url in self._urls:
            store = open_store(url)
            names = up_to(store.names(), self._reported)
            if names:
                return [store.below(name).url for name in names] + list(self.resume)
        return list(self.resume)

    @contextmanager
    def at_hand(self, one: str) -> Iterator[Path]:
        """Within, one of these as a local file, fetched for this process alone."""
        if one in self.resume:
            yield Path(one)
            return
        folder, name = self._place(one)
        local = self.folder / f".{name}.{os.getpid()}.tmp"
        try:
            folder.fetch(name, local)
            yield local
        finally:
            local.unlink(missing_ok=True)

    def set_aside(self, one: str) -> None:
        """Take one that is torn out of the way."""
        if one in self.resume:
            super().set_aside(one)
        else:
            folder, name = self._place(one)
            folder.rename(name, name + UNREADABLE)

    def _place(self, one: str) -> tuple[Store, str]:
        """The folder of a file that `found` gave, and its name."""
        for url in self._urls:
            store = open_store(url)
            name = one.partition("?")[0].rpartition("/")[2]
            if store.below(name).url == one:
                return store, name
        raise AssertionError(one)

    def keep(self, save: Callable[[Path], None], epoch: int) -> None:
        """Write the checkpoint of `epoch` to the URL, and let go of those that are no longer needed."""
        name = checkpoint_name(epoch)
        local = self.folder / name
        if self._saved != epoch:  # else it is here already, and the store was away
            save(local)
            self._saved = epoch
        self._store.put(local, name)
        for old in up_to(self._store.names(), epoch)[KEPT_CHECKPOINTS:]:
            self._store.delete(old)
        local.unlink(missing_ok=True)
        self._saved = 0

    def recorded(self) -> None:
        """An epoch's line has been written into the folder."""
        if self._apart is not None:
            for name in (CONFIG, METRICS):
                self._store.put(self.folder / name, name)

    def close(self) -> None:
        """Remove the folder that stood in for the sweep's."""
        if self._apart is not None:
            self._apart.remove()
