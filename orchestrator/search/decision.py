"""What follows from a trial's report, told from the study alone: it goes on, waits at a rung, or is over."""

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.search.halving import KINDS, PromotingAsha, audited, first_rung
from orchestrator.space import Sweep
from orchestrator.study.record import Outcome, TrialRecord, drawn_as, standing
from orchestrator.study.study import Study


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial that has reported."""

    outcome: Outcome | Literal["parked"]
    reason: str = ""


def first_look(sweep: Sweep, number: int) -> int:
    """Epoch before which a trial drawn as `number` goes on whatever its rank: see `scheduler.brackets`."""
    settings, rungs = sweep.config.scheduler, sweep.rungs
    if not rungs or settings.type == "pasha":
        return 0
    brackets = settings.brackets or len(rungs)
    return rungs[
        first_rung(sweep.config.search.seed, number, len(rungs), brackets, settings.reduction_factor)
    ]


class Decisions:
    """The rungs of a sweep, and what they make of its reports."""

    def __init__(self, sweep: Sweep, study: Study):
        self._sweep, self._study = sweep, study
        self._one_is_done = False
        """Whether a trial that could have been stopped has got to the end."""
        settings = sweep.config.scheduler
        mode = "max" if sweep.objective_mode == "max" else "min"
        self.asha = KINDS[settings.type](sweep.rungs, settings.reduction_factor, mode)

    def replay(self) -> list[tuple[TrialRecord, Verdict]]:
        """Fill the rungs with the reports in their order, and judge what was left undecided.

        The process may have died between a report and what follows from it; a trial is then judged by
        the reports that came before its own, as it would have been. The verdicts are the caller's to apply.
        """
        reports = [
            (record.facts[epoch].order, record, epoch)
            for record in standing(self._study.trials.values())
            for epoch in record.reports
        ]
        found = []
        for _, record, epoch in sorted(reports, key=lambda report: report[0]):
            self.enter(record, epoch)
            if record.outcome is not None or epoch != max(record.reports):
                continue
            if record.parked is not None:
                self._park(record, record.parked)
            elif (verdict := self.verdict(record, epoch)) is not None:
                found.append((record, verdict))
        return found

    def enter(self, record: TrialRecord, epoch: int) -> None:
        """Fill a report into its rung; a run with a fresh seed competes with nobody."""
        value = record.reports[epoch].get(self._study.metric)
        if record.role != "confirm" and value is not None and math.isfinite(value):
            self.asha.record(record.number, epoch, value)

    def verdict(self, record: TrialRecord, epoch: int) -> Verdict | None:
        """What becomes of a trial whose newest report is that of `epoch`; None: it goes on."""
        collapsed = record.facts[epoch].collapsed
        if collapsed is not None:
            return Verdict("collapsed", collapsed)
        value = record.reports[epoch].get(self._study.metric, 0.0)
        if not math.isfinite(value):  # which would stand anywhere among others
            return Verdict("failed", f"{self._study.metric} is {value} after epoch {epoch}")
        if epoch >= self._sweep.max_epochs:
            return Verdict("completed")
        passes = (
            record.passed >= epoch
            or not self.may_be_stopped(record)
            or epoch < first_look(self._sweep, drawn_as(record, self._study.trials))
        )
        if passes or self.asha.goes_on(record.number, epoch):
            return None
        reason = self.asha.rank(record.number, epoch)
        if isinstance(self.asha, PromotingAsha):
            self._park(record, epoch)
            return Verdict("parked", reason)
        return Verdict("pruned", reason)

    def may_be_stopped(self, record: TrialRecord) -> bool:
        """The base is measured to the end, and so are a few others: see `scheduler.audit`."""
        seed, share = self._sweep.config.search.seed, self._sweep.config.scheduler.audit
        return record.role == "search" and not audited(seed, share, drawn_as(record, self._study.trials))

    def promotable(self) -> TrialRecord | None:
        """The waiting trial that is good enough to go on by now."""
        number = self.asha.promotable() if isinstance(self.asha, PromotingAsha) else None
        return None if number is None else self._study.trials[number]

    def last_resort(self) -> TrialRecord | None:
        """The best of those that wait, where none of the stoppable trials has got to the end yet."""
        if not isinstance(self.asha, PromotingAsha):
            return None
        self._one_is_done = self._one_is_done or any(
            r.outcome == "completed" and self.may_be_stopped(r) for r in self._study.trials.values()
        )
        number = None if self._one_is_done else self.asha.furthest()
        return None if number is None else self._study.trials[number]

    def promote(self, record: TrialRecord) -> TrialRecord:
        """Let a waiting trial go on."""
        self._release(record)
        return self._study.promote(record.number)

    def left_waiting(self) -> list[tuple[TrialRecord, Verdict]]:
        """The trials that wait, to be ended once there is nothing that could still promote them."""
        if not isinstance(self.asha, PromotingAsha):
            return []
        left = sorted(self.asha.parked.items())
        found = [
            (self._study.trials[number], Verdict("pruned", self.asha.rank(number, epoch)))
            for number, epoch in left
        ]
        for record, _ in found:
            self._release(record)
        return found

    def _park(self, record: TrialRecord, epoch: int) -> None:
        assert isinstance(self.asha, PromotingAsha)
        self.asha.park(record.number, epoch)

    def _release(self, record: TrialRecord) -> None:
        assert isinstance(self.asha, PromotingAsha)
        self.asha.release(record.number)
