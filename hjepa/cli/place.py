"""Where a run's files go, and what it goes on from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.checkpoint import CheckpointFolder
from hjepa.config import RunConfig, load_config
from hjepa.records import free_folder
from hjepa.schema import ConfigError


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


def find_place(config: RunConfig) -> Place:
    """As checkpoint.resume says; an earlier run's files are left alone.

    Raises ConfigError where checkpoints to go on from are there and none can be read.
    """
    folder, setting = config.logging.folder, config.checkpoint.resume
    if setting is None:
        return _anew(config, ())
    if setting != "auto":
        resume = Path(setting)
        home = next((f for f in _siblings(folder) if _is_in(resume, checkpoint_dir(config, f))), None)
        if home is None:
            return _anew(config, (), resume)
        return Place(home, _checkpoints(config, home), resume, ())
    checkpoints = _checkpoints(config, folder)
    newest, unreadable = checkpoints.newest_readable()
    notes = tuple(f"{problem} Passed over." for problem in unreadable)
    if newest is not None:
        return Place(folder, checkpoints, newest, notes)
    none_yet = f"checkpoint.resume auto: no checkpoint in {checkpoints.folder} yet; the run starts anew."
    if _began_there(config, folder):
        return Place(folder, checkpoints, None, (none_yet,))
    return _anew(config, (none_yet,) if folder.exists() else ())


def checkpoint_dir(config: RunConfig, folder: Path) -> Path:
    """Folder of the checkpoints of a run with its records in `folder`."""
    given = config.checkpoint.checkpoint_dir
    return Path(given) if given else folder / "checkpoints"


def _anew(config: RunConfig, notes: tuple[str, ...], resume: Path | None = None) -> Place:
    """In a folder of its own."""
    wanted = config.logging.folder
    folder = free_folder(wanted)
    if folder != wanted:
        notes += (f"{wanted} holds an earlier run; this one goes to {folder}.",)
    checkpoints = _checkpoints(config, folder)
    if checkpoints.newest() is not None:
        # Among those of an earlier run, the newest to be kept would be the wrong ones.
        moved = CheckpointFolder(config.checkpoint, free_folder(checkpoints.folder))
        notes += (
            f"{checkpoints.folder} holds checkpoints of an earlier run; new ones go to {moved.folder}.",
        )
        checkpoints = moved
    return Place(folder, checkpoints, resume, notes)


def _checkpoints(config: RunConfig, folder: Path) -> CheckpointFolder:
    return CheckpointFolder(config.checkpoint, checkpoint_dir(config, folder))


def _siblings(folder: Path) -> list[Path]:
    """The folder, and those that later runs of its name were given."""
    later = (f for f in folder.parent.glob(f"{folder.name}-*") if f.name.rpartition("-")[2].isdecimal())
    return [folder, *sorted(later)]


def _is_in(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve()


def _began_there(config: RunConfig, folder: Path) -> bool:
    """Whether what is recorded in `folder` is the start of this very run."""
    try:
        earlier = load_config(folder / "config.yaml")
    except ConfigError:
        return False
    return _result_of(earlier) == _result_of(config)


def _result_of(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(exclude={"checkpoint", "logging", "device", "threads"})
