"""A study of a database, told as the journal that its sweep would have had without one."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from orchestrator.study.attributes import EPOCH

_Operation = tuple[JournalOperation, dict[str, Any]]


def transcript(storage: BaseStorage, study_id: int) -> Iterator[str]:
    """The lines of a journal that tells of that study what `storage` knows now. Reads only.

    Nobody knows any more in which order the trials reported, so each is told to its end before the next.
    The first line is the same at any later time, and another one for another sweep.
    """
    attributes = storage.get_study_user_attrs(study_id)
    # Optuna takes lines of another worker as they are; whose they were is known no more.
    worker = attributes.get("id", "")
    for operation, fields in _operations(storage, study_id, attributes):
        yield json.dumps({"op_code": operation, "worker_id": worker, **fields}, separators=(",", ":")) + "\n"


def _operations(storage: BaseStorage, study_id: int, attributes: dict[str, Any]) -> Iterator[_Operation]:
    yield (
        JournalOperation.CREATE_STUDY,
        {
            "study_name": storage.get_study_name_from_id(study_id),
            "directions": storage.get_study_directions(study_id),
        },
    )
    for key, value in sorted(attributes.items()):
        yield JournalOperation.SET_STUDY_USER_ATTR, {"study_id": 0, "user_attr": {key: value}}
    for key, value in sorted(storage.get_study_system_attrs(study_id).items()):
        yield JournalOperation.SET_STUDY_SYSTEM_ATTR, {"study_id": 0, "system_attr": {key: value}}
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        yield from _trial(trial)


def _trial(trial: FrozenTrial) -> Iterator[_Operation]:
    # With its parameters from the start: set one by one they would have to agree with those of other trials.
    yield (
        JournalOperation.CREATE_TRIAL,
        {
            "study_id": 0,
            "datetime_start": _utc(trial.datetime_start),
            "state": TrialState.RUNNING if trial.state.is_finished() else trial.state,
            "distributions": {name: distribution_to_json(one) for name, one in trial.distributions.items()},
            "params": {
                name: trial.distributions[name].to_internal_repr(value)
                for name, value in trial.params.items()
            },
            "system_attrs": trial.system_attrs,
        },
    )
    for key, value in sorted(trial.user_attrs.items(), key=lambda pair: _turn(pair[0])):
        yield JournalOperation.SET_TRIAL_USER_ATTR, {"trial_id": trial.number, "user_attr": {key: value}}
    for step, value in sorted(trial.intermediate_values.items()):
        told = {"trial_id": trial.number, "step": step, "intermediate_value": value}
        yield JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, told
    if trial.state.is_finished():
        yield (
            JournalOperation.SET_TRIAL_STATE_VALUES,
            {
                "trial_id": trial.number,
                "state": trial.state,
                "values": trial.values,
                "datetime_complete": _utc(trial.datetime_complete),
            },
        )


def _turn(attribute: str) -> tuple[int, str]:
    """What a trial's attributes are sorted by: its reports by epoch, of which readers take the last for the
    newest, and before them the rest."""
    return (int(attribute.removeprefix(EPOCH)), "") if attribute.startswith(EPOCH) else (-1, attribute)


def _utc(time: datetime | None) -> str | None:
    """Optuna's local time without a zone, as journals have it."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="microseconds")
