"""A journal skimmed for how its trials stand: each with its newest report, the older ones unread.

Optuna replays every line into trials, which takes seconds where there are 200,000 reports. Here a line is
looked at only as far as it takes to know whether a later one makes up for it; JSON is read of what is left.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from orchestrator.journal import JOURNAL
from orchestrator.space import ConfigError
from orchestrator.study import TrialRecord, record_of

_OPERATION = b'{"op_code":%d,'
_REPORT_VALUE = _OPERATION % JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE
_PARAMETER = _OPERATION % JournalOperation.SET_TRIAL_PARAM
_CREATE = _OPERATION % JournalOperation.CREATE_TRIAL
_ATTRIBUTE = _OPERATION % JournalOperation.SET_TRIAL_USER_ATTR
_STATE = _OPERATION % JournalOperation.SET_TRIAL_STATE_VALUES
_TRIAL, _EPOCH = b',"trial_id":', b',"user_attr":{"epoch:'


@dataclass
class _Trial:
    """A trial as far as the lines so far tell of it, with the fields that `record_of` asks for."""

    number: int
    user_attrs: dict[str, Any]
    state: TrialState
    datetime_start: datetime | None
    datetime_complete: datetime | None = None
    newest: bytes = b""
    """The line of its newest report."""
    valued: bytes = b""
    """The line of the newest report that holds the metric asked for."""
    others: list[bytes] = field(default_factory=list)
    """Further lines about it."""


def skim_trials(folder: Path, metric: str) -> list[TrialRecord]:
    """The trials of a journal, each with its newest report, and the newest that holds `metric`.

    What a trial was created with, as one that takes another up, it has whole; of checkpoints it has those
    that these reports name. Takes no lock and writes nothing. Raises ConfigError where there is no journal or
    a line of it is none of Optuna's.
    """
    path = folder / JOURNAL
    if not path.exists():
        raise ConfigError(f"{path}: no such record of a sweep.")
    try:
        with path.open("rb") as lines:
            trials = _read(lines, f'"{metric}":'.encode())
        for trial in trials:
            _settle(trial)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.") from None
    return [record for trial in trials if (record := record_of(trial)) is not None]


def _read(lines: Iterable[bytes], named: bytes) -> list[_Trial]:
    """The trials that whole lines tell of; `named` is how a line holds the metric."""
    trials: list[_Trial] = []
    for line in lines:
        if line.startswith(_REPORT_VALUE) or line.startswith(_PARAMETER) or not line.endswith(b"\n"):
            continue  # most lines; the last one may still be being written
        if line.startswith(_ATTRIBUTE) or line.startswith(_STATE):
            start = line.index(_TRIAL) + len(_TRIAL)
            end = line.index(b",", start)
            trial = trials[int(line[start:end])]
            if not line.startswith(_EPOCH, end):
                trial.others.append(line)
                continue
            trial.newest = line
            if named in line:
                trial.valued = line
        elif line.startswith(_CREATE):
            trials.append(_created(len(trials), json.loads(line)))
    return trials


def _created(number: int, log: dict[str, Any]) -> _Trial:
    began = log.get("datetime_start")
    return _Trial(
        number,
        log.get("user_attrs", {}),
        TrialState(log.get("state", TrialState.RUNNING)),
        _time(began) if began else None,
    )


def _settle(trial: _Trial) -> None:
    """Read what is left of a trial's lines."""
    for line in (*trial.others, trial.valued, trial.newest):
        if not line:
            continue
        log = json.loads(line)
        if log["op_code"] == JournalOperation.SET_TRIAL_USER_ATTR:
            trial.user_attrs |= log["user_attr"]
        elif not trial.state.is_finished():
            trial.state = TrialState(log["state"])
            if trial.state.is_finished():
                trial.datetime_complete = _time(log["datetime_complete"])


def _time(text: str) -> datetime:
    """Local time, as Optuna has it."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
