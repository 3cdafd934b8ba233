"""Opening a sweep's study, to write it or only to read, wherever it is kept."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.database import Database, open_database, read_database, unreachable
from orchestrator.definition import SPACE, require_same, telling
from orchestrator.disk import Patience
from orchestrator.holder import Holder, holder
from orchestrator.journal import JOURNAL
from orchestrator.lease import Lease, leaseholder
from orchestrator.sampler import build_sampler
from orchestrator.space import ConfigError
from orchestrator.spool import SPOOL, opening
from orchestrator.storage import Place
from orchestrator.study import Study, TrialRecord, ending_of, read_journal, read_trials, trials_of
from orchestrator.transcript import transcript

if TYPE_CHECKING:
    from orchestrator.space import Sweep

_DEFINITION, _FORKING = "definition", "forking"


def open_study(
    folder: Path,
    sweep: "Sweep",
    place: Place | None,
    patience: Patience,
    stack: ExitStack,
    forking: Path | None = None,
) -> Study:
    """The study of `sweep`, new or as it was left.

    In a database, the sweep is this process's until `stack` ends.
    With `forking` it must be new, and counts as half made until that folder holds its definition. Raises
    ConfigError where another process runs the sweep, or the database holds another one of its name.
    """
    sampler, known_as = build_sampler(sweep), _known_as(folder)
    if place is None:
        return Study(folder, sweep, sampler, patience, known_as=known_as)
    storage = open_database(place, patience)
    stack.callback(storage.engine.dispose)
    with _told(place):
        lease = Lease(storage.engine, sweep.config.name, patience.say)
    stack.callback(lease.release)
    storage.lost_to = lease.lost_to
    _require_ours(storage, forking or folder, sweep, place, forking is not None)
    study = Study(folder, sweep, sampler, storage=storage, known_as=known_as)
    study.describe({_DEFINITION: telling(sweep), _FORKING: forking is not None})
    return study


def _known_as(folder: Path) -> str | None:
    """The id that MLflow's record in `folder` has of the sweep: a study that was lost is made again by it."""
    first = opening(folder / SPOOL)
    return first["sweep"] if first else None


def _require_ours(storage: Database, folder: Path, sweep: "Sweep", place: Place, forking: bool) -> None:
    name = sweep.config.name
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return
    known: dict[str, Any] = storage.get_study_user_attrs(study_id)
    half_made = known.get(_FORKING, False) and not (folder / SPACE).exists()
    if forking and half_made:
        storage.delete_study(study_id)
    elif half_made:
        raise ConfigError(
            f"{name}: {place} holds a half of it: an interrupted --fork {name}. Repeat that command, or "
            "name this sweep differently by --set name=NAME."
        )
    elif forking and _DEFINITION in known:
        raise ConfigError(f"--fork {name}: {place} holds a sweep of that name; name another.")
    elif _DEFINITION in known:
        require_same(known[_DEFINITION], sweep, f"{place} holds", " or name another database.")
    elif storage.get_n_trials(study_id):
        raise ConfigError(
            f"{name}: {place} holds a study of that name that no sweep has made; name this one differently "
            "by --set name=NAME."
        )


def read_study(folder: Path, place: Place | None) -> list[TrialRecord]:
    """The trials of the sweep in `folder`, whether it runs or not. Takes no lock and writes nothing.

    Raises ConfigError where there is no record of a sweep, or no way to it.
    """
    if place is None:
        return read_trials(folder)
    with _reading(place) as storage:
        return trials_of(storage, folder.name)


def study_as_journal(folder: Path, place: Place) -> bytes:
    """The study in `place` of the sweep in `folder`, as the file that JOURNAL names. Writes nothing.

    Raises ConfigError where there is no such study, or no way to it.
    """
    with _reading(place) as storage:
        try:
            study_id = storage.get_study_id_from_name(folder.name)
        except KeyError:
            raise ConfigError(f"{folder.name}: {place} holds no study of that name.") from None
        return "".join(transcript(storage, study_id)).encode("utf-8")


def read_ending(folder: Path, place: Place | None) -> dict[str, Any] | None:
    """The budget that ended the search of the sweep in `folder`, if one did."""
    if place is None:
        return ending_of(read_journal(folder), folder.name)
    with _reading(place) as storage:
        return ending_of(storage, folder.name)


def who_runs(folder: Path, place: Place | None) -> Holder | None:
    """Who runs the sweep in `folder` at this moment; None where nobody does."""
    found = holder(folder)
    if found is not None or place is None:
        return found
    with _reading(place) as storage:
        return leaseholder(storage.engine, folder.name)


def has_begun(folder: Path, place: Place | None) -> bool:
    """Whether there is a record to read."""
    return place is not None or (folder / JOURNAL).exists()


@contextmanager
def _reading(place: Place) -> Iterator[Any]:
    storage = read_database(place)
    try:
        with _told(place):
            yield storage
    finally:
        storage.engine.dispose()


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Within, what the database refuses is a ConfigError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else None
        raise ConfigError(unreachable(place, cause or error)) from None
