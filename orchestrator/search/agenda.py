"""What a sweep has yet to run, told from its study alone."""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count, islice
from typing import Any

from orchestrator.budget import Purse
from orchestrator.search.decision import Decisions, Verdict
from orchestrator.search.proposal import NothingLeftError
from orchestrator.space import Sweep
from orchestrator.study.record import Role, TrialRecord
from orchestrator.study.study import Study


def reruns_left(sweep: Sweep, study: Study) -> list[tuple[TrialRecord, int]]:
    """Trials and fresh seeds that are still to be run again: the base's and the best ones'."""
    settings, base = sweep.config.confirm, study.base_to_confirm()
    if not settings.top_k or base is None or study.best() is None:
        return []
    chosen = [base, *study.best_found(settings.top_k)]
    # Seeds outermost: whenever it stops, every config has been run with nearly the same ones.
    return [
        (record, seed)
        for seed in fresh_seeds(sweep, chosen)
        for record in chosen
        if (record.number, seed) not in study.rerun
    ]


def fresh_seeds(sweep: Sweep, chosen: Iterable[TrialRecord]) -> list[int]:
    """The next seeds after the base's that none of the trials `chosen` ran with in the search."""
    used = {sweep.resolve(record.values).seed for record in chosen}
    fresh = (seed for seed in count(sweep.base.seed + 1) if seed not in used)
    return list(islice(fresh, sweep.config.confirm.seeds))


def search_is_left(sweep: Sweep, study: Study) -> bool:
    """Whether the search has yet to ask for trials, whatever the budgets say."""
    listed = listed_left(sweep, study)
    if listed is not None:
        return bool(listed)
    return study.searched < sweep.num_trials and study.exhausted is None


def listed_left(sweep: Sweep, study: Study) -> deque[dict[str, Any]] | None:
    """Of a design's list what has not been run; None where there is no list.

    By run, not by count: trials that were taken over from another sweep may not be in the list.
    """
    if sweep.listed_runs is None:
        return None
    runs = sweep.listed_runs.items()
    return deque(values for identity, values in runs if not study.has_run(identity))


def work_is_left(sweep: Sweep, study: Study) -> bool:
    """Whether any trial is to be begun or gone on with, as far as the budgets allow."""
    allows = Purse(sweep, study).allows
    if any(record.role == "confirm" or allows(record.role) for record in study.unfinished()):
        return True
    if study.base() is None and allows("base"):
        return True
    if search_is_left(sweep, study) and allows("search"):
        return True
    return bool(reruns_left(sweep, study)) and allows("confirm")


class Agenda:
    """Which trial is next: interrupted ones first, then the base, then those at a rung that are good enough
    by now, then proposals, then fresh seeds."""

    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        decisions: Decisions,
        allows: Callable[[Role], bool] = lambda role: True,
        say: Callable[[str], None] = lambda text: None,
    ):
        """`allows`: whether the budgets have something left for a trial of a role. `say` tells the user."""
        self._sweep, self._study, self._decisions = sweep, study, decisions
        self._allows, self._say = allows, say
        self.waiting = deque(study.at_work())
        """Trials that have begun and are to go on, as far as the budgets allow."""
        self._listed = listed_left(sweep, study)

    def next(self) -> TrialRecord | None:
        """The next trial; None where it depends on those that run, or nothing is left."""
        for record in self.waiting:
            # What has begun with a fresh seed is ended, so that it was not in vain.
            if record.role == "confirm" or self._allows(record.role):
                self.waiting.remove(record)
                return record
        if self._study.base() is None:
            return self._study.ask("base", self._sweep.base_values()) if self._allows("base") else None
        searches = self._allows("search")
        if searches and (promoted := self._decisions.promotable()) is not None:
            return self._decisions.promote(promoted)
        if searches and (proposed := self._propose()) is not None:
            return proposed
        # Who is best is known when all have ended.
        if any(record.role != "confirm" for record in self.out()):
            return None
        if searches and (promoted := self._decisions.last_resort()) is not None:
            return self._decisions.promote(promoted)
        reruns = reruns_left(self._sweep, self._study)
        return self._study.ask_again(*reruns[0]) if reruns and self._allows("confirm") else None

    def _propose(self) -> TrialRecord | None:
        """The search's next trial; None where it has had its last one."""
        if not self._search_is_left():
            return None
        try:
            return self._study.ask("search", self._listed.popleft() if self._listed else None)
        except NothingLeftError as error:
            count = f"{self._study.searched} of {self._sweep.num_trials} trials"
            self._study.exhaust(f"the search ends with {count}: {error}")
            self._say(f"search.num_trials: {self._study.exhausted}")
            return None

    def _search_is_left(self) -> bool:
        """As `search_is_left`, which looks through the whole of a list."""
        return search_is_left(self._sweep, self._study) if self._listed is None else bool(self._listed)

    def out(self) -> list[TrialRecord]:
        """Trials that have been given out and are not over, nor back among those that wait."""
        waiting = {record.number for record in self.waiting}
        return [record for record in self._study.at_work() if record.number not in waiting]

    def given_up(self) -> list[tuple[TrialRecord, Verdict]]:
        """The trials at a rung that nothing can promote any more, for the search is over."""
        if self.waiting or self._search_is_left() or self._study.base() is None:
            return []
        busy = any(record.role != "confirm" for record in self._study.at_work())
        if busy or self._decisions.promotable() or self._decisions.last_resort():
            return []
        return self._decisions.left_waiting()
