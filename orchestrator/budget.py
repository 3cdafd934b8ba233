"""What a sweep has spent of its time and cost budgets, told from its reports, and what is left."""

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from orchestrator.study.record import Role, TrialRecord, standing

if TYPE_CHECKING:
    from orchestrator.space import Sweep
    from orchestrator.study.study import Study

BRIDGE_S = 60.0
"""Pauses between epochs that count as time of the sweep: its start, a change of trials. In longer ones it did
not run."""
MARGIN = 1.1
"""By how much more than it has taken so far an epoch of the confirm runs is reckoned."""
HOUR_S = 3600.0
TIME, COST = "search.time_budget", "search.cost_budget"


@dataclass(frozen=True)
class Spent:
    """What a sweep has taken."""

    time_s: float = 0.0
    """Seconds in which it ran."""
    worker_s: float = 0.0
    """Seconds that its workers were held, each counted."""

    @property
    def worker_hours(self) -> float:
        """The same in hours."""
        return self.worker_s / HOUR_S


class Ledger:
    """Adds up epochs. Those that ran side by side are counted once in time, and each in worker-seconds."""

    def __init__(self, workers: int):
        self._workers = workers
        self._spans: list[tuple[float, float]] = []
        """Disjoint, in order, further apart than BRIDGE_S."""
        self._worker_s = 0.0
        self.epochs, self.epoch_s = 0, 0.0

    @classmethod
    def of(cls, records: Iterable[TrialRecord], workers: int) -> Self:
        """With all that the trials of a sweep have reported; what was taken over from another is free."""
        ledger = cls(workers)
        for record in standing(records):
            if record.origin is None:
                for facts in record.facts.values():
                    ledger.enter(facts.time_ms / 1000, facts.seconds)
        return ledger

    def enter(self, end_s: float, seconds: float) -> None:
        """An epoch that ended at `end_s`, Unix time, after `seconds`."""
        self._worker_s += seconds * self._workers
        self.epochs, self.epoch_s = self.epochs + 1, self.epoch_s + seconds
        self._spans = _with(self._spans, end_s - seconds, end_s)

    def spent(self, now: float = 0.0, running_s: Sequence[float] = ()) -> Spent:
        """What has been spent at `now`, Unix time, where epochs have been running for `running_s`."""
        spans = self._spans
        if running_s:
            spans = _with(spans, now - max(running_s), now)
        time_s = sum(end - start for start, end in spans)
        return Spent(time_s, self._worker_s + sum(running_s) * self._workers)

    @property
    def side_by_side(self) -> float:
        """How many trials have run at a time, on average."""
        time_s = self.spent().time_s
        return max(1.0, self.epoch_s / time_s) if time_s else 1.0


def _with(spans: list[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    """Disjoint spans with one more, which swallows those that it touches or nearly does."""
    first = bisect_left(spans, start - BRIDGE_S, key=lambda span: span[1])
    last = first
    while last < len(spans) and spans[last][0] <= end + BRIDGE_S:
        start, end = min(start, spans[last][0]), max(end, spans[last][1])
        last += 1
    return [*spans[:first], (start, end), *spans[last:]]


@dataclass(frozen=True)
class Left:
    """How a budget stands: the whole, what is spent, and what the runs with fresh seeds are to have."""

    key: str
    """Its key in the search space file."""
    whole: float
    spent: float
    reserved: float

    @property
    def for_search(self) -> float:
        """What the search may still spend; never under 0."""
        return max(0.0, self.whole - self.spent - self.reserved)

    @property
    def overall(self) -> float:
        """What is left in all; never under 0."""
        return max(0.0, self.whole - self.spent)

    def words(self) -> str:
        """`search.time_budget: 0:12:00 of 2:00:00 spent, 0:08:00 kept for fresh seeds`."""
        show = clock if self.key == TIME else _hours
        kept = f", {show(self.reserved)} kept for fresh seeds" if self.reserved else ""
        return f"{self.key}: {show(self.spent)} of {show(self.whole)} spent{kept}"


@dataclass(frozen=True)
class Budget:
    """The budgets of a sweep; either may be missing."""

    time_s: float | None
    cost_h: float | None
    workers: int = 1
    max_epochs: int = 1
    top_k: int = 0
    """Configs that are run with fresh seeds after the search, beside the base; 0: none, nor the base."""
    seeds: int = 0
    """Those of each."""

    @classmethod
    def of(cls, sweep: "Sweep") -> Self:
        """Those of a sweep."""
        return cls.read(sweep.definition())

    @classmethod
    def read(cls, definition: dict[str, Any]) -> Self:
        """Those that a sweep's definition names."""
        sweep, base = definition["sweep"], definition["base"]
        search, confirm = sweep["search"], sweep["confirm"]
        return cls(
            search.get("time_budget"),
            search.get("cost_budget"),
            sweep["resources"]["workers"],
            base["training"]["epochs"],
            confirm["top_k"],
            confirm["seeds"],
        )

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self.time_s is not None or self.cost_h is not None

    def left(
        self,
        ledger: Ledger,
        confirmed: int = 0,
        now: float = 0.0,
        running_s: Sequence[float] = (),
    ) -> list[Left]:
        """How each stands; `confirmed` of the runs with fresh seeds have begun already."""
        spent = ledger.spent(now, running_s)
        kept = self._reserved(ledger, confirmed)
        found = []
        if self.time_s is not None:
            found.append(Left(TIME, self.time_s, spent.time_s, kept.time_s))
        if self.cost_h is not None:
            found.append(Left(COST, self.cost_h, spent.worker_hours, kept.worker_hours))
        return found

    def confirmed(self, reruns: Iterable[int | None], chosen: Iterable[int]) -> int:
        """How many of `reruns`, told by the trials that they run again, are of those `chosen` by now: where a
        raised budget has led to another finalist, that one is still to be run with fresh seeds."""
        counts = Counter(reruns)
        return sum(min(self.seeds, counts[number]) for number in chosen)

    def _reserved(self, ledger: Ledger, confirmed: int) -> Spent:
        """What the runs with fresh seeds that have not begun will take, by the epochs so far."""
        runs = (self.top_k + 1) * self.seeds - confirmed if self.top_k else 0
        if runs <= 0 or not ledger.epochs:
            return Spent()
        run_s = MARGIN * self.max_epochs * ledger.epoch_s / ledger.epochs
        waves = math.ceil(runs / round(ledger.side_by_side))
        return Spent(run_s * waves, run_s * runs * self.workers)


class Purse:
    """The budgets of an open sweep, and what they still allow."""

    def __init__(self, sweep: "Sweep", study: "Study"):
        self.budget = Budget.of(sweep)
        spent = study.trials.values() if self.budget.is_set else ()
        self.ledger = Ledger.of(spent, self.budget.workers)
        self._study = study
        self._refused: set[Role] = set()

    @property
    def over(self) -> bool:
        """Whether a budget has ended the search, and has not been raised since."""
        return is_over(self.budget, self._study.ended_by)

    def left(self, running_s: Sequence[float] = ()) -> list[Left]:
        """How each budget stands, where epochs have been running for `running_s`."""
        base = self._study.base_to_confirm()
        chosen = [*([base] if base else []), *self._study.best_found(self.budget.top_k)]
        reruns = (number for number, _ in self._study.rerun)
        confirmed = self.budget.confirmed(reruns, [record.number for record in chosen])
        return self.budget.left(self.ledger, confirmed, time.time(), running_s)

    def allows(self, role: Role, running_s: Sequence[float] = ()) -> bool:
        """Whether a trial of that role may begin, or begin another epoch.

        The base's and those with fresh seeds may use what is kept for these from the search. Once refused, a
        role stays so in this process, whatever becomes of the epochs that were running.
        """
        if not self.budget.is_set:
            return True
        if role in self._refused or (role == "search" and self.over):
            return False
        for left in self.left(running_s):
            if (left.for_search if role == "search" else left.overall) <= 0:
                if not self.over:
                    ended = {"key": left.key, "whole": left.whole, "spent": left.spent}
                    self._study.end_search(ended)
                self._refused.add(role)
                return False
        return True

    def words(self) -> list[str]:
        """That a budget ended the search, and how all stand."""
        ended = self._study.ended_by
        by = [f"{ended['key']} ended the search"] if ended is not None and self.over else []
        return [*by, *(left.words() for left in self.left())]


def is_over(budget: Budget, ended: Mapping[str, Any] | None) -> bool:
    """Whether the budget that `ended` names, if any, still ends the search; raised or gone, it does not."""
    if ended is None:
        return False
    now = budget.time_s if ended["key"] == TIME else budget.cost_h
    return now is not None and now <= ended["whole"]


def clock(seconds: float) -> str:
    """Seconds as 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _hours(hours: float) -> str:
    return f"{hours:.2f} worker-hours"
