"""Where a run's files go, and what it goes on from."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hjepa.checkpoint import CheckpointFolder, load_checkpoint
from hjepa.config import RunConfig, load_config
from hjepa.distributed import Team
from hjepa.folders import LOCK, Claim, TakenError, claim_free, numbered, siblings
from hjepa.resume import changes
from hjepa.schema import ConfigError, read_mapping, to_yaml

_SHOWN = 5  # keys that differ


@dataclass(frozen=True)
class Place:
    """Where a run's files go, and what it goes on from."""

    folder: Path
    """Of the records."""
    checkpoints: CheckpointFolder
    resume: Path | None
    """The checkpoint to go on from, if any."""
    notes: tuple[str, ...]
    """What the user has to know, line by line."""


@contextmanager
def find_place(config: RunConfig, team: Team) -> Iterator[Place]:
    """As checkpoint.resume says; an earlier run's files are left alone.

    Within, the folders are this run's own; of several processes the first one has them. Raises ConfigError
    where a folder cannot be written, where the run to go on with is going on, and where it has checkpoints
    and none can be read.
    """
    with ExitStack() as claims:
        yield team.lead(lambda: _Search(config, claims).place())


class _Search:
    def __init__(self, config: RunConfig, claims: ExitStack):
        given = config.checkpoint.checkpoint_dir
        self.config = config
        self.claims = claims
        """Takes those of the place that is found."""
        self.wanted = config.logging.folder
        self.given = Path(os.path.expanduser(given)) if given else None
        """Folder of the checkpoints, where it is not in that of the records."""
        self.text = to_yaml(config)

    def place(self) -> Place:
        setting = self.config.checkpoint.resume
        if setting is None:
            return self._anew(())
        if setting == "auto":
            return self._auto()
        resume = Path(os.path.expanduser(setting))
        home = next((f for f in siblings(self.wanted) if _is_in(resume, self._kept(f))), None)
        if home is None:
            return self._anew((), resume)
        self._claim(home, "logging.log_dir")
        return self._place(home, self._claim_kept(home, self._kept(home)), resume, ())

    def _auto(self) -> Place:
        """Of the runs in folders of the wanted name, the first that has the same result; else anew."""
        nearest: tuple[Path, list[str]] | None = None
        for kept, saved, home in self._earlier():
            changed = changes(saved, self.config)
            if not changed:
                return self._go_on(home, kept)
            if nearest is None or len(changed) < len(nearest[1]):
                nearest = (kept, changed)
        none = f"checkpoint.resume auto: no checkpoint in {self._kept(self.wanted)} yet; the run starts anew."
        if self.given is not None and (home := self._recorded_home()) is not None:
            return self._anew((none,), home=home)
        if nearest is None:
            return self._anew((none,) if self.wanted.exists() else ())
        kept, changed = nearest
        newest = self._checkpoints(kept).newest()
        resume = shlex.quote(f"checkpoint.resume={newest}")
        way = f" To go on from it all the same: --set {resume}" if newest else ""
        more = f"; and {len(changed) - _SHOWN} keys more" if len(changed) > _SHOWN else ""
        other = f"{kept} is of another run: {'; '.join(changed[:_SHOWN])}{more}."
        return self._anew((f"checkpoint.resume auto: {other} This one starts anew.{way}",))

    def _earlier(self) -> Iterator[tuple[Path, Mapping[str, Any], Path | None]]:
        """Earlier runs' folders of checkpoints, each with the run's config and the folder of its records."""
        if self.given is None:
            for home in siblings(self.wanted):
                saved = _recorded(home) or self._saved(self._kept(home))
                if saved is not None:
                    yield self._kept(home), saved, home
            return
        home = self._recorded_home()
        for kept in siblings(self.given):
            if (saved := self._saved(kept)) is not None:
                yield kept, saved, home

    def _recorded_home(self) -> Path | None:
        """The folder whose records are of this run."""
        for home in siblings(self.wanted):
            recorded = _recorded(home)
            if recorded is not None and not changes(recorded, self.config):
                return home
        return None

    def _go_on(self, home: Path | None, kept: Path) -> Place:
        notes: tuple[str, ...] = ()
        if home is None:
            home, notes = self._claim_home()
        else:
            self._claim(home, "logging.log_dir")
        newest, unreadable = self._checkpoints(self._claim_kept(home, kept)).newest_readable()
        notes += tuple(f"{problem} Passed over." for problem in unreadable)
        if newest is None:
            notes += (f"checkpoint.resume auto: no checkpoint in {kept} yet; the run starts anew.",)
        return self._place(home, kept, newest, notes)

    def _anew(self, notes: tuple[str, ...], resume: Path | None = None, home: Path | None = None) -> Place:
        """In a folder of its own, which is `home` where that is given."""
        if home is None:
            home, moved = self._claim_home()
            notes += moved
        else:
            self._claim(home, "logging.log_dir")
        if self.given is None:
            return self._place(home, self._kept(home), resume, notes)
        # Among those of an earlier run, the newest to be kept would be the wrong ones.
        kept = next(
            folder
            for folder in numbered(self.given)
            if self._checkpoints(folder).newest() is None and self._take(home, folder)
        )
        if kept != self.given:
            notes += (f"{self.given} holds checkpoints of an earlier run; new ones go to {kept}.",)
        return self._place(home, kept, resume, notes)

    def _place(self, home: Path, kept: Path, resume: Path | None, notes: tuple[str, ...]) -> Place:
        checkpoints = self._checkpoints(kept)
        return Place(home, checkpoints, resume, notes + checkpoints.notes)

    def _kept(self, home: Path) -> Path:
        """Folder of the checkpoints of a run with its records in `home`."""
        return self.given or home / "checkpoints"

    def _checkpoints(self, kept: Path) -> CheckpointFolder:
        return CheckpointFolder(self.config.checkpoint, kept)

    def _saved(self, kept: Path) -> Mapping[str, Any] | None:
        """The config of the newest checkpoint that can be read in a folder, if there is one."""
        newest, _ = self._checkpoints(kept).newest_readable()
        return None if newest is None else load_checkpoint(newest, torch.device("cpu")).get("config")

    def _claim_home(self) -> tuple[Path, tuple[str, ...]]:
        with _named("logging.log_dir", self.wanted):
            claim = self.claims.enter_context(claim_free(self.wanted, self.text))
        if claim.folder == self.wanted:
            return self.wanted, ()
        return claim.folder, (f"{self.wanted} holds an earlier run; this one goes to {claim.folder}.",)

    def _claim_kept(self, home: Path, kept: Path) -> Path:
        if self.given is not None and kept.resolve() != home.resolve():
            self._claim(kept, "checkpoint.checkpoint_dir")
        return kept

    def _take(self, home: Path, kept: Path) -> bool:
        """Whether a folder of checkpoints could be claimed for a new run."""
        if kept.resolve() == home.resolve():
            return True
        try:
            with _named("checkpoint.checkpoint_dir", kept):
                self.claims.enter_context(Claim(kept, self.text))
        except TakenError:
            return False
        return True

    def _claim(self, folder: Path, key: str) -> None:
        """ConfigError where another run has the folder."""
        try:
            with _named(key, folder):
                self.claims.enter_context(Claim(folder, self.text))
        except TakenError as error:
            raise ConfigError(
                f"{folder}: a run is going on there, {error}. "
                f"Wait for its end, or give this one a {key} of its own."
            ) from None


@contextmanager
def _named(key: str, folder: Path) -> Iterator[None]:
    """What the system refuses is a ConfigError about the key."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{key}: {folder} cannot be written: {error.strerror or error}.") from None


def _is_in(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve()


def _recorded(home: Path) -> Mapping[str, Any] | None:
    """The config of the run whose records are in a folder, if one can be read there."""
    for file in (home / "config.yaml", home / LOCK):
        try:
            if found := read_mapping(file):
                return _completed(file) or found
        except ConfigError:
            pass
    return None


def _completed(file: Path) -> Mapping[str, Any] | None:
    """A config with the keys that it leaves out; None where it is of a version that had other ones."""
    try:
        return load_config(file).model_dump(mode="json")
    except ConfigError:
        return None
