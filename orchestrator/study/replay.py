"""Trials told from the lines of a journal, without Optuna.

Optuna replays every line into trials of its own, which takes it seconds where there are 200,000 reports, and
half a second to be imported. Here lines that tell nothing of a record are passed over, and the others are
read many at a time.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.definition import JOURNAL
from orchestrator.process.collector import uncollected
from orchestrator.space import ConfigError
from orchestrator.study.attributes import EPOCH, StoredReport, record_of
from orchestrator.study.record import TrialRecord

AT_ONCE = 1000
"""Lines that are read as one piece of JSON."""


BUFFER_BYTES = 2**20
"""Of a file that is read line by line, in each call of the system."""


class Operation(IntEnum):
    """What a line does, as Optuna numbers it."""

    SET_STUDY_USER_ATTR = 2
    CREATE_TRIAL = 4
    SET_TRIAL_PARAM = 5
    SET_TRIAL_STATE_VALUES = 6
    SET_TRIAL_INTERMEDIATE_VALUE = 7
    SET_TRIAL_USER_ATTR = 8


OPERATION = slice(11, 12)
"""Where a line holds the digit of its operation: it begins with `{"op_code":`."""
PARAMETER = b"%d" % Operation.SET_TRIAL_PARAM
INTERMEDIATE = b"%d" % Operation.SET_TRIAL_INTERMEDIATE_VALUE
ATTRIBUTE = b"%d" % Operation.SET_TRIAL_USER_ATTR


class State(IntEnum):
    """How a trial stands, as Optuna numbers it."""

    RUNNING = 0
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3
    WAITING = 4

    def is_finished(self) -> bool:
        """Whether it is over."""
        return self not in (State.RUNNING, State.WAITING)


@dataclass
class _Trial:
    """A trial as far as the lines so far tell of it, with the fields that `record_of` asks for."""

    number: int
    user_attrs: dict[str, Any]
    state: State
    datetime_start: datetime | None
    datetime_complete: datetime | None = None


def replay(lines: Iterable[bytes]) -> tuple[list[TrialRecord], dict[str, Any]]:
    """The trials that whole lines of a journal tell of, and the study's own attributes.

    Raises ValueError, KeyError, IndexError or TypeError for lines that are none of Optuna's.
    """
    trials: list[_Trial] = []
    own: dict[str, Any] = {}
    for log in _parsed(lines):
        operation = log["op_code"]
        if operation == Operation.SET_TRIAL_USER_ATTR:
            _set(trials[log["trial_id"]].user_attrs, log["user_attr"])
        elif operation == Operation.CREATE_TRIAL:
            trials.append(_created(len(trials), log))
        elif operation == Operation.SET_TRIAL_STATE_VALUES:
            _turn(trials[log["trial_id"]], log)
        elif operation == Operation.SET_STUDY_USER_ATTR:
            own |= log["user_attr"]
    return [record for trial in trials if (record := record_of(trial)) is not None], own


@uncollected()
def read_record(folder: Path) -> tuple[list[TrialRecord], dict[str, Any]]:
    """The trials of the journal in `folder`, whether its sweep runs or not, and the study's own attributes.

    Takes no lock and writes nothing. Raises ConfigError where there is no journal, or a line of it is none of
    Optuna's.
    """
    with readable(folder) as path, path.open("rb", BUFFER_BYTES) as lines:
        return replay(
            line
            for line in lines
            # The last one may still be being written.
            if line[OPERATION] not in (PARAMETER, INTERMEDIATE) and line.endswith(b"\n")
        )


@contextmanager
def readable(folder: Path) -> Iterator[Path]:
    """The journal in `folder`, to be read within. ConfigError where it is not there, or cannot be read."""
    path = folder / JOURNAL
    if not path.exists():
        raise ConfigError(f"{path}: no such record of a sweep.")
    try:
        yield path
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.") from None


def _parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """JSON is read of many lines at once, which halves the time."""
    each = iter(lines)
    while some := list(islice(each, AT_ONCE)):
        yield from json.loads(b"[" + b",".join(some) + b"]")


def _created(number: int, log: dict[str, Any]) -> _Trial:
    began = log.get("datetime_start")
    attributes = log.get("user_attrs", {})
    return _Trial(number, attributes, State(log.get("state", State.RUNNING)), _time(began) if began else None)


def _set(attributes: dict[str, Any], told: dict[str, Any]) -> None:
    """Reports at once in the form that takes little memory."""
    for key, value in told.items():
        attributes[key] = StoredReport.of(value) if key.startswith(EPOCH) else value


def _turn(trial: _Trial, log: dict[str, Any]) -> None:
    if not trial.state.is_finished():
        trial.state = State(log["state"])
        if trial.state.is_finished():
            trial.datetime_complete = _time(log["datetime_complete"])


def _time(text: str) -> datetime:
    """Local time, as Optuna has it."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
