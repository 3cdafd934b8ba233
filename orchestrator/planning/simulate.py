"""A sweep without Ray or training: its own sampler, rungs and agenda on a simulated clock.

What trials would report is given; who is proposed, let go on, made to wait or ended is decided by the parts
that decide it in a real sweep.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from optuna.storages import InMemoryStorage

from orchestrator.search.agenda import Agenda
from orchestrator.search.decision import Decisions, Verdict
from orchestrator.search.sampler import build_sampler
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study

Curve = Callable[[TrialRecord], Sequence[float]]
"""The objective after each epoch of a trial, up to its last one."""


@dataclass(frozen=True)
class Step:
    """One simulated report."""

    time_s: float
    epochs: int
    """Epochs that all trials together have run by then."""
    trial: TrialRecord
    epoch: int
    value: float


def simulate(
    sweep: Sweep, curve: Curve, workers: int, epoch_s: Callable[[TrialRecord], float] = lambda _: 1.0
) -> Iterator[Step]:
    """The reports of a sweep in the order in which they would come; stop iterating to stop the sweep.

    `workers` trials run at a time, and an epoch of a trial takes `epoch_s` of it. As Ray Tune does, it asks
    for one trial more than it has room for.
    """
    # Kept in memory, a study writes nothing into its folder.
    study = Study(Path(), sweep, build_sampler(sweep), storage=InMemoryStorage())
    yield from _Simulation(sweep, study, curve, workers, epoch_s).run()


class _Simulation:
    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        curve: Curve,
        workers: int,
        epoch_s: Callable[[TrialRecord], float],
    ):
        self._study, self._curve, self._workers, self._epoch_s = study, curve, workers, epoch_s
        self._decisions = Decisions(sweep, study)
        self._agenda = Agenda(sweep, study, self._decisions)
        self._asked: TrialRecord | None = None
        self._events: list[tuple[float, int, TrialRecord]] = []
        self._curves: dict[int, Sequence[float]] = {}
        self._order = count()

    def run(self) -> Iterator[Step]:
        epochs = 0
        self._fill(0.0)
        while self._events:
            now, _, record = heapq.heappop(self._events)
            epochs += 1
            epoch = max(record.reports, default=0) + 1
            value = float(self._curves[record.number][epoch - 1])
            self._study.report(record.number, epoch, {self._study.metric: value}, None)
            self._decisions.enter(record, epoch)
            verdict = self._decisions.verdict(record, epoch)
            if verdict is None:
                self._push(now, record)
            else:
                self._apply(record, verdict)
            yield Step(now, epochs, record, epoch, value)
            self._fill(now)

    def _fill(self, now: float) -> None:
        """Begin what there is room for, and ask for one more."""
        while True:
            if self._asked is None:
                for record, verdict in self._agenda.given_up():
                    self._apply(record, verdict)
                self._asked = self._agenda.next()
            if self._asked is None or len(self._events) >= self._workers:
                return
            self._begin(now, self._asked)
            self._asked = None

    def _begin(self, now: float, record: TrialRecord) -> None:
        if record.number not in self._curves:
            self._curves[record.number] = self._curve(record)
        self._push(now, record)

    def _push(self, now: float, record: TrialRecord) -> None:
        heapq.heappush(self._events, (now + self._epoch_s(record), next(self._order), record))

    def _apply(self, record: TrialRecord, verdict: Verdict) -> None:
        if verdict.outcome == "parked":
            self._study.park(record.number, max(record.reports))
        else:
            self._study.end(record.number, verdict.outcome, verdict.reason)
