"""Opening a sweep's study to write it, wherever it is kept."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.definition import SPACE, require_same, telling
from orchestrator.search.sampler import build_sampler
from orchestrator.space import ConfigError
from orchestrator.storage.disk import Patience
from orchestrator.study.database import Database, open_database, told
from orchestrator.study.lease import Lease
from orchestrator.study.place import Place
from orchestrator.study.study import Study
from orchestrator.tracking.spool import SPOOL, opening

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
    with told(place):
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
