"""A sweep while it runs: what is made of every report, crash and silence, and the record of it."""

import heapq
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import cluster_address
from orchestrator.budget import Purse
from orchestrator.ending import Ending
from orchestrator.engine.failure import Failure
from orchestrator.engine.queue import FINISHED
from orchestrator.engine.trial import Outcome, Task, half_micro_batch
from orchestrator.process.collector import uncollected
from orchestrator.process.stopping import GRACE_S, Stop
from orchestrator.reporting.caption import number as shown
from orchestrator.search.agenda import Agenda
from orchestrator.search.decision import Decisions, Verdict
from orchestrator.space import Sweep
from orchestrator.storage.checkpoints import checkpoints_of, trial_folder
from orchestrator.storage.depot import Depot
from orchestrator.storage.disk import Patience
from orchestrator.study.holder import Holder
from orchestrator.study.record import Outcome as Fate
from orchestrator.study.record import Role, TrialRecord, standing
from orchestrator.study.study import Study
from orchestrator.tracking.chronicle import Chronicle, run_config
from orchestrator.tracking.load import system_metrics
from orchestrator.tracking.tracking import Tracker
from orchestrator.watching.progress import Counts, Progress
from orchestrator.watching.status import Status

ENDED_AT_ONCE = 100
"""Trials that are given up in one write: there are thousands, and each write waits for the disk."""
LOOKED_AT = 3
"""Trials of which a store is asked for what they have left in it, each time that one ends."""


class SweepRun:
    """A sweep while it runs: who is next, who may go on, and the record of both."""

    @uncollected()
    def __init__(
        self,
        folder: Path,
        sweep: Sweep,
        study: Study,
        tracker: Tracker,
        counts: Counts,
        stop: Stop,
        patience: Patience,
        depot: Depot | None = None,
    ):
        """`depot` is where trials keep their checkpoints; None: in their folders."""
        self.depot = depot
        self.folder, self.sweep, self.study, self.tracker, self.counts = folder, sweep, study, tracker, counts
        self.stop, self.patience = stop, patience
        self.chronicle = Chronicle(tracker, sweep)
        self.ending = Ending(folder, sweep, study, tracker, self.chronicle, patience, depot, self._say)
        self.progress = Progress(study.metric, sweep.max_epochs, counts)
        self.failures: dict[int, int] = {}
        self.heard: dict[int, float] = {}
        """When each running trial was last heard of, on the monotonic clock."""
        self.silent: dict[int, str] = {}
        self.paused: set[int] = set()
        self._copies = _Copies()
        self.said_stopping = False
        self.holder = Holder.this()
        self.decisions = Decisions(sweep, study)
        over = [record for record in standing(study.trials.values()) if record.outcome is not None]
        for record in over:
            assert record.outcome is not None
            self._count(record.outcome)
        # The process may have died between an end, or the last of many, and what it makes superfluous.
        for record in heapq.nlargest(ENDED_AT_ONCE, over, key=_ended_at):
            self._tidy(record, later=True)
        self.chronicle.opened()
        self.chronicle.make_up_for(study.trials.values())
        self.purse = Purse(sweep, study)
        self.surplus: list[int] = []
        """Trials that a budget holds up, and whose processes have begun nevertheless."""
        for record, verdict in self.decisions.replay():
            self._apply(record, verdict)
        self.agenda = Agenda(sweep, study, self.decisions, self._allows, self._say)
        # The process may have died before it could hold them up, and those that are held up are ranked.
        for record in self.agenda.waiting:
            if record.role != "confirm" and not self._allows(record.role):
                study.hold(record.number)
        counts.total = max(counts.total, study.standing)
        self._give_up()  # else Ray would be started for nothing, and Tune waits for ever where none begins

    # What Tune asks

    def next_trial(self) -> dict[str, Any] | str | None:
        """What Tune shall begin; None to be asked again later."""
        if self.stop.asked:
            self._wind_up()  # Tune asks on and on, without a turn, where nothing runs
            return None
        self._give_up()
        record = self.agenda.next()
        if record is None:
            return None if self.agenda.out() else FINISHED
        self.counts.total = max(self.counts.total, self.study.standing)
        self.study.hold(record.number, held=False)
        folder = trial_folder(self.folder, record)
        resume = checkpoints_of(self.folder, self.study, record)
        if record.checkpoint is not None and not resume and self.depot is None:
            self._note(record, f"begins anew: none of its checkpoints is in {folder} any more")
        return Task(
            number=record.number,
            run=run_config(self.sweep, record).model_dump_json(),
            folder=str(folder.resolve()),
            only_here=cluster_address() is None,
            working_dir=str(Path.cwd()),
            resume=tuple(str(path.resolve()) for path in resume),
            stores=self.depot.urls(record, self.study.trials) if self.depot else (),
            reported=max(record.reports, default=0),
            baselines=record.role == "base" and not record.reports,
            gpu_share=self.sweep.config.resources.gpus,
        ).config()

    def tick(self) -> list[int]:
        """Asked several times a second: the trials whose processes are to be killed.

        KeyboardInterrupt where the sweep shall stop and no trial is worth waiting for.
        """
        if self.stop.asked:
            self._wind_up()
        limit, now = self.sweep.config.resources.trial_timeout, time.monotonic()
        silent = [number for number, heard in self.heard.items() if now - heard > limit]
        for number in silent:
            self.silent[number] = f"reported nothing for {limit:g} s and was killed"
            del self.heard[number]
        surplus, self.surplus = self.surplus, []
        return silent + surplus

    def _wind_up(self) -> None:
        if not self.said_stopping:
            self.said_stopping = True
            self.progress.note(
                f"{self.stop.by}: the sweep stops; what ends its epoch within {GRACE_S:.0f} s is taken in, "
                "the rest goes on from its last epoch later. Once more to leave at once."
            )
        if not self.heard or self.stop.overdue:
            raise KeyboardInterrupt

    def running(self) -> int:
        """Trials that have begun and are not over."""
        return len(self.heard)

    def started(self, config: dict[str, Any]) -> None:
        """A trial has got its processors."""
        record = self.study.trials[Task.of(config).number]
        self.heard[record.number] = time.monotonic()
        self.chronicle.started(record)
        self.progress.started(record)
        # Tune asks for a trial ahead of a free place, and a budget may have ended meanwhile.
        if record.role == "search" and not self._allows("search"):
            self.surplus.append(record.number)
            self._hold(record)

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        """Record a report, and decide whether its trial goes on."""
        task, outcome = Task.of(config), Outcome.of(result)
        record = self.study.trials[task.number]
        if record.outcome is not None:
            return False
        # Tune tells once more of a trial that has been stopped.
        again = record.number not in self.heard and outcome.epoch in record.reports
        self.heard[record.number] = time.monotonic()
        if outcome.paused is not None:
            self._pause(record, outcome.paused)
            return True
        for note in () if again else outcome.notes:
            self._note(record, note)
        if outcome.failure is not None:
            self._end(record, "failed", outcome.failure)
            return False
        if record.number in self.paused:
            self.paused.discard(record.number)
            self.progress.note(f"trial {record.id} goes on: it could be written again")
        if outcome.epoch not in record.reports:
            self._take_in(record, outcome)
        elif outcome.collapsed is not None:  # run again from an older checkpoint, and not quite alike
            self._end(record, "collapsed", outcome.collapsed)
        return self._goes_on(record)

    def _allows(self, role: Role) -> bool:
        """Whether the budgets have something left for a trial of that role."""
        if not self.purse.budget.is_set:
            return True
        now = time.monotonic()
        return self.purse.allows(role, [now - heard for heard in self.heard.values()])

    def _hold(self, record: TrialRecord) -> None:
        """Hold a trial up, to go on where a budget is raised."""
        if not record.held:
            self.study.hold(record.number)
            self.agenda.waiting.append(record)
            self.chronicle.held(record)
            self.progress.held(record)
        self.heard.pop(record.number, None)

    def _goes_on(self, record: TrialRecord) -> bool:
        open_ = record.outcome is None and record.parked is None
        if open_ and record.role != "confirm" and not self._allows(record.role):
            self._hold(record)
            return False
        goes_on = open_ and not self.stop.asked
        if not goes_on:
            self.heard.pop(record.number, None)
        return goes_on

    def _take_in(self, record: TrialRecord, outcome: Outcome) -> None:
        epoch = outcome.epoch
        if record.held:  # its process had begun; where it stands is for this report to say
            self.study.hold(record.number, held=False)
            self.agenda.waiting.remove(record)
        self.study.report(
            record.number, epoch, outcome.metrics, outcome.checkpoint, outcome.collapsed, outcome.seconds
        )
        self.purse.ledger.enter(record.facts[epoch].time_ms / 1000, outcome.seconds)
        self.chronicle.reported(record, epoch, system_metrics())
        self.decisions.enter(record, epoch)
        self.progress.reported(record)
        verdict = self.decisions.verdict(record, epoch)
        if verdict is not None:
            self._apply(record, verdict)

    def _give_up(self) -> None:
        """End the trials that nothing can promote any more."""
        given_up = self.agenda.given_up()
        for start in range(0, len(given_up), ENDED_AT_ONCE):
            some = given_up[start : start + ENDED_AT_ONCE]
            self.study.end_all({record.number: verdict.reason for record, verdict in some}, "pruned")
            for record, _ in some:
                self._ended(record)

    def _apply(self, record: TrialRecord, verdict: Verdict) -> None:
        """Let a trial wait at its rung, or end it."""
        if verdict.outcome != "parked":
            self._end(record, verdict.outcome, verdict.reason)
            return
        self.study.park(record.number, max(record.reports))
        self.heard.pop(record.number, None)
        self.progress.parked(record, verdict.reason)

    def _pause(self, record: TrialRecord, why: str) -> None:
        if record.number not in self.paused:
            self.paused.add(record.number)
            self.progress.note(f"trial {record.id} pauses {why}")

    def crashed(self, config: dict[str, Any], error: str) -> None:
        """A trial's process died: try again from its checkpoint, or give the trial up."""
        record = self.study.trials[Task.of(config).number]
        self.heard.pop(record.number, None)
        over = record.outcome is not None or record.parked is not None
        if over or self.stop.asked or record.held:
            return
        failure = Failure.of(self.silent.pop(record.number, None) or error)
        if failure.gpu_memory and not record.halved and half_micro_batch(run_config(self.sweep, record)):
            self.study.halve(record.number)
            half = run_config(self.sweep, record)
            self._note(
                record,
                f"{failure.reason}; goes on with data.batch_size {half.data.batch_size} and "
                f"training.accumulation_steps {half.training.accumulation_steps}. A regularizer over the "
                "batch sees half of it at a time.",
            )
            self._put_back(record)
            return
        if failure.node_lost:
            self._note(record, f"{failure.reason}; goes on elsewhere")
            self._put_back(record)
            return
        count = self.failures[record.number] = self.failures.get(record.number, 0) + 1
        hopeless = failure.by_config and cluster_address() is None  # another node may have the data
        if hopeless or count > self.sweep.config.resources.max_failures:
            self._end(record, "failed", failure.reason)
        else:
            self._note(record, f"{failure.reason}; tried again")
            self._put_back(record)

    def _put_back(self, record: TrialRecord) -> None:
        """Let a trial whose process is gone go on in another place."""
        self.agenda.waiting.append(record)
        self.progress.put_back(record)

    def status(self) -> Status:
        """How the sweep stands, as `hjepa-sweep status` tells it; any thread may ask."""
        trials = list(self.study.trials.values())
        return Status(
            name=self.sweep.config.name,
            metric=self.study.metric,
            mode=self.sweep.objective_mode,
            total=self.counts.total,
            max_epochs=self.sweep.max_epochs,
            rungs=list(self.sweep.rungs),
            trials=[self._copies.of(record) for record in trials],
            begun=set(self.heard),
            runs=self.holder,
            undelivered=0,
            budget=self.purse.budget,
            ended_by=self.study.ended_by,
            exhausted=self.study.exhausted,
            reduction_factor=self.sweep.config.scheduler.reduction_factor,
            algorithm=self.sweep.config.search.algorithm,
            keys=self.sweep.config.space,
        )

    # Records

    def _say(self, text: str) -> None:
        self.progress.note(text)

    def _note(self, record: TrialRecord, text: str) -> None:
        self.study.note(record.number, text)
        self.progress.note(f"trial {record.id} {text}")

    def _end(self, record: TrialRecord, outcome: Fate, reason: str = "") -> None:
        self.study.end(record.number, outcome, reason)
        self._ended(record)

    def _ended(self, record: TrialRecord) -> None:
        """What follows from an end that is in the study."""
        assert record.outcome is not None
        self.heard.pop(record.number, None)
        self._count(record.outcome)
        self.counts.best = self._best_so_far()
        self.chronicle.ended(record)
        self._tidy(record)
        self.progress.ended(record)

    def _best_so_far(self) -> str:
        parts = []
        for name, record in (("best", self.study.best()), ("base", self.study.base())):
            last = record.last(self.study.metric) if record is not None else None
            if record is not None and last is not None:
                parts.append(f"{name} {shown(last[1])} (trial {record.id}, epoch {last[0]})")
        return ", ".join(parts)

    def _tidy(self, record: TrialRecord, later: bool = False) -> None:
        """Keep the last checkpoint of a completed trial, none of a weak one, all of a failed one; `later`: of
        those in a store when other trials end, for each has to be asked for."""
        if record.outcome == "failed":
            return
        for file in trial_folder(self.folder, record).glob("epoch_*"):
            if file.name != record.kept:
                file.unlink(missing_ok=True)
        if self.depot is not None:
            self.depot.enter(record)
            if not later:
                self.depot.tidy(LOOKED_AT)

    def _count(self, outcome: Fate) -> None:
        self.counts.ended[outcome] = self.counts.ended.get(outcome, 0) + 1


def _ended_at(record: TrialRecord) -> float:
    return 0.0 if record.ended is None else record.ended.timestamp()


class _Copies:
    """Records for whoever draws them while they change: of one that is not over a copy, made anew where it
    has changed."""

    def __init__(self) -> None:
        self._given: dict[int, TrialRecord] = {}

    def of(self, record: TrialRecord) -> TrialRecord:
        """`record` as it is now."""
        if record.outcome is not None:
            self._given.pop(record.number, None)
            return record
        copy = self._given.get(record.number)
        if copy is None or not _alike(copy, record):
            copy = self._given[record.number] = _copy(record)
        return copy


def _alike(copy: TrialRecord, record: TrialRecord) -> bool:
    """Whether nothing of what changes in a record has, since its copy was made."""
    return (
        len(copy.reports) == len(record.reports)
        and copy.parked == record.parked
        and copy.held == record.held
        and copy.turn == record.turn
        and copy.halved == record.halved
        and copy.notes is record.notes
    )


def _copy(record: TrialRecord) -> TrialRecord:
    """As it is now; facts come before their reports."""
    reports = dict(record.reports)
    return replace(record, reports=reports, facts={epoch: record.facts[epoch] for epoch in reports})
