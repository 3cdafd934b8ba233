"""What a sweep's study tells to whoever asks: no lock is taken, and nothing is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.definition import JOURNAL
from orchestrator.space import ConfigError
from orchestrator.study import replay
from orchestrator.study.attributes import record_of
from orchestrator.study.holder import Holder, holder
from orchestrator.study.place import Place
from orchestrator.study.record import TrialRecord

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

# Optuna and SQLAlchemy take half a second to import, and who asks after a journal's sweep needs neither.


def read_study(folder: Path, place: Place | None) -> list[TrialRecord]:
    """The trials of the sweep in `folder`, as `read_record` has them."""
    return read_record(folder, place)[0]


def read_record(folder: Path, place: Place | None) -> tuple[list[TrialRecord], dict[str, Any]]:
    """The trials of the sweep in `folder`, whether it runs or not, and the study's own attributes.

    Takes no lock and writes nothing. Raises ConfigError where there is no record of a sweep, or no way to it.
    """
    if place is None:
        return replay.read_record(folder)
    from orchestrator.study.database import reading

    with reading(place) as storage:
        return trials_of(storage, folder.name), attributes_of(storage, folder.name)


def study_as_journal(folder: Path, place: Place) -> bytes:
    """The study in `place` of the sweep in `folder`, as the file that JOURNAL names. Writes nothing.

    Raises ConfigError where there is no such study, or no way to it.
    """
    from orchestrator.study.database import reading
    from orchestrator.study.transcript import transcript

    with reading(place) as storage:
        try:
            study_id = storage.get_study_id_from_name(folder.name)
        except KeyError:
            raise ConfigError(f"{folder.name}: {place} holds no study of that name.") from None
        return "".join(transcript(storage, study_id)).encode("utf-8")


def who_runs(folder: Path, place: Place | None) -> Holder | None:
    """Who runs the sweep in `folder` at this moment; None where nobody does."""
    found = holder(folder)
    if found is not None or place is None:
        return found
    from orchestrator.study.database import reading
    from orchestrator.study.lease import leaseholder

    with reading(place) as storage:
        return leaseholder(storage.engine, folder.name)


def has_begun(folder: Path, place: Place | None) -> bool:
    """Whether there is a record to read."""
    return place is not None or (folder / JOURNAL).exists()


def attributes_of(storage: "BaseStorage", name: str) -> dict[str, Any]:
    """The own attributes of the study `name`; none where there is no such study."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return {}


def trials_of(storage: "BaseStorage", name: str) -> list[TrialRecord]:
    """The trials of the study `name`; none where there is no such study."""
    try:
        found = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    except KeyError:
        return []
    return [record for frozen in found if (record := record_of(frozen)) is not None]
