"""How a sweep stands, read from its folder by whoever asks."""

import json
import math
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, Ledger, Left, clock, is_over
from orchestrator.definition import DEFINITION, JOURNAL, sweep_folders
from orchestrator.reporting.caption import NONE, counted, describe, number
from orchestrator.space import ConfigError, objective_mode
from orchestrator.study.attributes import ANSWERED, ENDED_BY, EXHAUSTED, is_answer, stands
from orchestrator.study.holder import Holder
from orchestrator.study.place import place_of
from orchestrator.study.reading import has_begun, read_record, who_runs
from orchestrator.study.record import TrialRecord, rank, standing
from orchestrator.study.skim import skim
from orchestrator.tracking.spool import SPOOL
from orchestrator.tracking.tracking import undelivered

NO_BUDGET = Budget(None, None)
SHOWN = 40
"""Trials in the table of words: the running ones, then the newest."""


@dataclass(frozen=True)
class Status:
    """How a sweep stands."""

    name: str
    metric: str
    mode: str
    total: int
    """Trials that are asked for, with the base and the reruns."""
    max_epochs: int
    rungs: list[int]
    trials: list[TrialRecord]
    begun: set[int]
    """Numbers of the trials that some process has begun."""
    runs: Holder | None
    undelivered: int
    """Records that MLflow has not got."""
    reduction_factor: int = 3
    """One in how many goes on at a rung."""
    algorithm: str = "grid"
    """What proposes the trials; `grid` where they are listed."""
    keys: Collection[str] = ()
    """The swept keys."""
    budget: Budget = NO_BUDGET
    ended_by: dict[str, Any] | None = None
    """The budget that ended the search, where one did."""
    exhausted: str | None = None
    """Why nothing was left to propose, where that ended it."""
    is_answered: bool = False
    """Whether its answer was written in full, and nothing has happened or been asked for since."""

    def state_of(self, record: TrialRecord) -> str:
        """What a trial is doing, or how it ended."""
        if record.outcome is not None:
            taken_up = self._taken_up.get(record.number)
            return f"{record.outcome}, taken up as {taken_up}" if taken_up else record.outcome
        if record.parked is not None:
            return "parked"
        if record.held:
            return "held"
        if record.number not in self.begun:
            return "waiting"
        return "running" if self.runs else "interrupted"

    @property
    def _states(self) -> Counter[str]:
        """How many trials do what, without failed ones that were taken up again."""
        return Counter(self.state_of(record) for record in standing(self.trials))

    @cached_property
    def _taken_up(self) -> dict[int, str]:
        """Ids of the trials that have taken up failed ones, by the numbers of these."""
        return {r.retries: r.id for r in reversed(self.trials) if r.retries is not None}

    @property
    def in_all(self) -> int:
        """Trials in all: of a sweep that was cut down, or has other finalists since, as many as there are."""
        return max(self.total, len(standing(self.trials)))

    @property
    def budget_ended(self) -> bool:
        """Whether a budget has ended the search, and has not been raised since."""
        return is_over(self.budget, self.ended_by)

    @property
    def state(self) -> str:
        """`running`, `finished` or `interrupted`."""
        if self.runs:
            return "running"
        return "finished" if self.is_answered else "interrupted"

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best trial so far."""
        return next(iter(rank(self.trials, self.metric, self.mode)), None)

    @cached_property
    def base(self) -> TrialRecord | None:
        """The base config's trial."""
        return next((record for record in standing(self.trials) if record.role == "base"), None)

    @property
    def took(self) -> timedelta:
        """From the first trial's start to the last one's end, or to now where it runs."""
        starts = [record.began for record in self.trials if record.began]
        ends = [record.ended for record in self.trials if record.ended]
        if not starts:
            return timedelta()
        last = datetime.now() if self.runs else max([*ends, *self._last_reports(), *starts])
        return max(timedelta(), last - min(starts))

    def _last_reports(self) -> list[datetime]:
        times = (facts.time_ms for record in self.trials for facts in record.facts.values())
        newest = max(times, default=0)
        return [datetime.fromtimestamp(newest / 1000)] if newest else []

    def line(self, best: bool = True) -> str:
        """All of it in one line, with the best value or not."""
        counted = ", ".join(f"{count} {state}" for state, count in sorted(self._states.items()))
        over = sum(record.outcome is not None for record in standing(self.trials))
        value = f"; best {self._value(self.best)}" if best and self.best else ""
        return f"{self.state}, {over} of {self.in_all} trials over ({counted or 'none begun'}){value}"

    def words(self) -> str:
        """A page of it."""
        running = f" by {self.runs}" if self.runs else ""
        shown = [record for record in self.trials if record.outcome is None]
        shown += [record for record in self.trials if record.outcome is not None][::-1]
        rungs = f", rungs at {', '.join(map(str, self.rungs))}" if self.rungs else ""
        proposed = "" if self.algorithm == "grid" else f"; proposed by {self.algorithm}"
        lines = [
            f"{self.name}: {self.line()}",
            f"{self.state}{running}; {duration(self.took)}; up to {self.max_epochs} epochs{rungs}{proposed}",
            *(f"{name}: {self._value(r)}" for name, r in (("best", self.best), ("base", self.base)) if r),
            *self.budgets(),
            *([f"MLflow has not got {counted(self.undelivered, 'record')} yet"] if self.undelivered else []),
            "",
            f"{'trial':6} {'epoch':>7} {'rung':>4} {self.metric:>14} {'time':>8}  state",
            *(self._row(record) for record in shown[:SHOWN]),
            *([f"and {len(shown) - SHOWN} more; --json has them all"] if len(shown) > SHOWN else []),
        ]
        return "\n".join(lines)

    def budgets(self) -> list[str]:
        """What ended the search early, and how all budgets stand, in words."""
        ended = [f"{self.ended_by['key']} ended the search"] if self.ended_by and self.budget_ended else []
        ended += [self.exhausted] if self.exhausted else []
        return [*ended, *(left.words() for left in self.left())]

    def left(self) -> list[Left]:
        """How each budget stands, by what has been reported."""
        if not self.budget.is_set:
            return []
        base = [record.number for record in self.trials if record.role == "base"]
        found = [r.number for r in rank(self.trials, self.metric, self.mode) if r.role == "search"]
        reruns = [record.confirms for record in standing(self.trials) if record.role == "confirm"]
        confirmed = self.budget.confirmed(reruns, [*base, *found[: self.budget.top_k]])
        return self.budget.left(Ledger.of(self.trials, self.budget.workers), confirmed)

    def _row(self, record: TrialRecord) -> str:
        last = record.last(self.metric)
        epoch = f"{max(record.reports, default=0)}/{self.max_epochs}"
        rung = self._rung(record)
        row = (
            f"{record.id:6} {epoch:>7} {'-' if rung is None else rung:>4} "
            f"{NONE if last is None else number(last[1]):>14} {duration(self._time(record)):>8}  "
            f"{self.state_of(record)}"
        )
        again = f"{record.reason}; tried again"
        times = record.notes.count(again) + 1
        reason = f"{record.reason} ({times} times)" if times > 1 else record.reason
        extra = [reason, *(note for note in record.notes if note != again)]
        return f"{row}; {describe(record, self.keys)}" + "".join(f"; {text}" for text in extra if text)

    def _value(self, record: TrialRecord | None) -> str:
        last = record.last(self.metric) if record else None
        if record is None or last is None:
            return "no value yet"
        return f"{self.metric} {number(last[1])} (trial {record.id}, epoch {last[0]})"

    def _rung(self, record: TrialRecord) -> int | None:
        """The last rung that a trial has reached."""
        return max((rung for rung in self.rungs if rung <= max(record.reports, default=0)), default=None)

    def _time(self, record: TrialRecord) -> timedelta:
        if record.began is None:
            return timedelta()
        times = [facts.time_ms / 1000 for facts in record.facts.values()]
        last = record.ended or (datetime.fromtimestamp(max(times)) if any(times) else record.began)
        return max(
            timedelta(), (datetime.now() if self.state_of(record) == "running" else last) - record.began
        )

    def data(self, trials: bool = True) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {
            "name": self.name,
            "state": self.state,
            "process": self.runs.pid if self.runs else None,
            "metric": self.metric,
            "algorithm": self.algorithm,
            "total": self.in_all,
            "seconds": round(self.took.total_seconds()),
            "trials_by_state": dict(self._states),
            "best": self.best.id if self.best else None,
            "undelivered": self.undelivered,
            "budgets": [asdict(left) for left in self.left()],
            "ended_by": self.ended_by["key"] if self.ended_by and self.budget_ended else None,
        }
        if trials:
            found["trials"] = [self._data(record) for record in self.trials]
        return found

    def _data(self, record: TrialRecord) -> dict[str, Any]:
        last = record.last(self.metric)
        return {
            "trial": record.id,
            "role": record.role,
            "state": self.state_of(record),
            "epoch": max(record.reports, default=0),
            "rung": self._rung(record),
            self.metric: last[1] if last and math.isfinite(last[1]) else None,
            "seconds": round(self._time(record).total_seconds()),
            "values": record.values,
            "reason": record.reason,
            "notes": record.notes,
            "passed_over": record.passed_over,
        }


def read_status(folder: Path, storage: str | None = None, newest_only: bool = False) -> Status:
    """How the sweep in `folder` stands. ConfigError where its definition or record cannot be read.

    With `newest_only` trials may come with their newest reports alone, which is quicker where there are many:
    enough for all that a Status says, not for the table.
    """
    try:
        telling = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
        sweep, base = telling["definition"]["sweep"], telling["definition"]["base"]
        metric, max_epochs = sweep["objective"]["metric"], base["training"]["epochs"]
        scheduler, total, algorithm = sweep["scheduler"], telling["trials"], sweep["search"]["algorithm"]
        budget, keys = Budget.read(telling["definition"]), tuple(sweep["space"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / DEFINITION}: cannot be read: {error}.") from None
    place = place_of(folder, storage)
    runs = who_runs(folder, place)
    # After the lock: what ends in between is then shown as ended, not as interrupted.
    begun = has_begun(folder, place)
    # What budgets have been spent is told by all reports.
    skims = newest_only and place is None and not budget.is_set
    trials: list[TrialRecord] = []
    known: dict[str, Any] = {}
    if begun:
        trials, known = skim(folder, metric) if skims else read_record(folder, place)
    folders = folder / "trials"
    there = set(os.listdir(folders)) if folders.is_dir() else set()
    return Status(
        name=folder.name,
        metric=metric,
        mode=objective_mode(metric),
        total=total,
        max_epochs=max_epochs,
        rungs=_rungs(scheduler, max_epochs),
        trials=trials,
        begun={record.number for record in trials if record.id in there},
        runs=runs,
        undelivered=undelivered(folder),
        reduction_factor=scheduler.get("reduction_factor", 3),
        algorithm=algorithm,
        keys=keys,
        budget=budget,
        ended_by=known.get(ENDED_BY),
        exhausted=known.get(EXHAUSTED),
        is_answered=is_answer(known.get(ANSWERED), stands(trials, telling)),
    )


def _rungs(scheduler: dict[str, Any], max_epochs: int) -> list[int]:
    if scheduler["type"] == "fifo":
        return []
    found, epoch = [], scheduler["grace_epochs"]
    while epoch < max_epochs:
        found.append(epoch)
        epoch *= scheduler["reduction_factor"]
    return found


def newest_sweep(results: Path) -> Path:
    """The sweep that was written to last. ConfigError where there is none."""
    found = [folder for folder in sweep_folders(results) if _written_at(folder)]
    if not found:
        raise ConfigError(f"{results} holds no sweep; is --results right?")
    return max(found, key=_written_at)


def _written_at(folder: Path) -> float:
    """When a sweep was last written to, here; 0 where it has not begun."""
    files = [folder / JOURNAL, folder / SPOOL]  # whose study is in a database still has its spool here
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def duration(time: timedelta) -> str:
    """As 1:02:03."""
    return clock(time.total_seconds())
