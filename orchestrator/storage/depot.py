"""A sweep's own folder at `resources.checkpoints`: its trials' checkpoints, and at the end its answer."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.definition import write_whole
from orchestrator.space import ConfigError, Sweep
from orchestrator.storage.disk import Patience
from orchestrator.storage.store import Store, open_store
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study

PLACE = "checkpoints.json"


class Depot:
    """The driver's side of it. Trials read and write theirs by themselves."""

    def __init__(self, store: Store):
        self.store = store
        self.untidy: dict[int, TrialRecord] = {}
        """Ended trials of which something may be there that is not kept."""

    def folder(self, record: TrialRecord) -> Store:
        """Where a trial's checkpoints are."""
        return self.store.below("trials", record.id)

    def urls(self, record: TrialRecord, trials: Mapping[int, TrialRecord]) -> tuple[str, ...]:
        """Folders with what a trial may go on from: its own, then those of the trials that it takes up."""
        found = [self.folder(record).url]
        while record.retries is not None:
            record = trials[record.retries]
            found.append(self.folder(record).url)
        return tuple(found)

    def enter(self, record: TrialRecord) -> None:
        """Take note of a trial that has ended."""
        self.untidy[record.number] = record

    def tidy(self, count: int | None = None) -> None:
        """Remove what is no longer needed of the `count` trials that were entered last, None: of all. They
        stay entered where the store does not answer."""
        for number, one in list(reversed(self.untidy.items()))[:count]:
            folder = self.folder(one)
            try:
                for name in folder.names():
                    if name.startswith("epoch_") and name != one.kept:
                        folder.delete(name)
            except OSError:
                return
            del self.untidy[number]

    def take_in(self, root: Path, files: Sequence[Path], patience: Patience) -> None:
        """Copy files and folders below `root` there. Raises OSError where the store refuses."""
        for top in files:
            for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if file.is_file():
                    patience(functools.partial(self._put, root, file))

    def _put(self, root: Path, file: Path) -> None:
        self.store.below(*file.relative_to(root).parts[:-1]).put(file, file.name)


def open_depot(folder: Path, sweep: Sweep, study: Study) -> Depot | None:
    """The place of `sweep` at the URL that it names, which is written down in `folder`; None: it names none.

    It bears the study's id besides the name, so that two sweeps of one name cannot mix.
    """
    url = sweep.config.resources.checkpoints
    if url is None:
        (folder / PLACE).unlink(missing_ok=True)
        return None
    store = _opened(url).below(f"{sweep.config.name}-{study.id[:8]}")
    write_whole(folder / PLACE, json.dumps({"url": store.url}, indent=1))
    return Depot(store)


def depot_in(folder: Path) -> Depot | None:
    """The place of the sweep in `folder`; None where its checkpoints are in the folder itself."""
    try:
        return Depot(_opened(json.loads((folder / PLACE).read_text(encoding="utf-8"))["url"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / PLACE}: cannot be read: {error}.") from None


def require_store(url: str) -> None:
    """Raises ConfigError unless files can be written to, read from and removed at `url`."""
    store = _opened(url)
    try:
        store.probe()
    except OSError as error:
        raise ConfigError(_unusable(url, error)) from None


def _opened(url: str) -> Store:
    try:
        return open_store(url)
    except OSError as error:
        raise ConfigError(_unusable(url, error)) from None


def _unusable(url: str, error: OSError) -> str:
    return (
        f"resources.checkpoints: {url} cannot be written to: {error.strerror or error}.\n"
        "Credentials come from the environment or the machine's role, as for other tools (AWS_ACCESS_KEY_ID, "
        "GOOGLE_APPLICATION_CREDENTIALS, ...)."
    )
