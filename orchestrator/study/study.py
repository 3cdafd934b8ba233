"""The durable record of a sweep: every suggestion, report, checkpoint and end, written as it happens.

An Optuna study in a journal file or a database. What Ray Tune knows is lost with its process; this is not.
"""

import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from orchestrator.definition import telling
from orchestrator.process.collector import uncollected
from orchestrator.search.proposal import propose
from orchestrator.space import objective_mode
from orchestrator.storage.disk import Patience
from orchestrator.study.attributes import (
    ANSWERED,
    ENDED_BY,
    EPOCH,
    EXHAUSTED,
    RUN,
    StoredReport,
    identity,
    is_answer,
    record_of,
    stands,
)
from orchestrator.study.contenders import Contenders
from orchestrator.study.journal import Journal
from orchestrator.study.metrics import Metrics
from orchestrator.study.record import Facts, Outcome, Role, TrialRecord

if TYPE_CHECKING:
    from orchestrator.space import Sweep

# A collapsed or pruned trial teaches the sampler by what it reported; a failed one teaches nothing.
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

_NEW: dict[str, Any] = {
    "outcome": None,
    "reason": "",
    "passed_over": {},
    "parked": None,
    "turn": None,
    "held": False,
}
"""What a trial made of another one does not take from it."""


class Study:
    """One sweep's record. Open it under `SweepLock`: a second writer would double every trial."""

    @uncollected()
    def __init__(
        self,
        folder: Path,
        sweep: "Sweep",
        sampler: BaseSampler,
        patience: Patience | None = None,
        storage: BaseStorage | None = None,
        known_as: str | None = None,
    ):
        """Create the record in `storage`, or open the one that is there; None: a journal in `folder`.

        `patience` is asked what to do where the journal's disk is full. A new one gets `known_as` for its id.
        """
        self.folder, self.sweep, self.sampler = folder, sweep, sampler
        self.metric = sweep.config.objective.metric
        self.metrics = sweep.config.objective.metrics
        ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder, patience or Patience()) if storage is None else None
        self._together = journal.together if journal is not None else nullcontext
        """Within, what is written goes to the disk as one; in a database it does not."""
        self._study = optuna.create_study(
            study_name=sweep.config.name,
            storage=JournalStorage(journal) if journal is not None else storage,
            directions=[ways[objective_mode(metric)] for metric in self.metrics],
            sampler=sampler,
            load_if_exists=True,
        )
        if "id" not in self._study.user_attrs:
            self._study.set_user_attr("id", known_as or uuid.uuid4().hex)
        self.id: str = self._study.user_attrs["id"]
        self.exhausted: str | None = self.known(EXHAUSTED)
        """Why nothing was left to propose, where that ended the search."""
        self.trials: dict[int, TrialRecord] = {}
        self._open: dict[int, Trial] = {}
        self._at_work: set[int] = set()
        """Of these, the numbers of those that do not wait at a rung."""
        self._half_asked: list[int] = []
        self._runs: dict[str, int] = {}
        """Numbers of the base and the search's trials, by the identity of their run."""
        self.searched = 0
        """Trials that the search has asked for."""
        self.standing = 0
        """Trials, those that others have taken up left out."""
        self.rerun: set[tuple[int | None, int | None]] = set()
        """Trials that have been run again, each with its fresh seed."""
        self._bases: list[TrialRecord] = []
        self._contenders = Contenders(self.metric, sweep.objective_mode)
        self._reports = 0
        self._promotions = 0
        for frozen in self._study.get_trials(deepcopy=False):
            self._read(frozen, None if journal is None else journal.reports.pop(frozen._trial_id, {}))

    def _read(self, frozen: FrozenTrial, apart: Mapping[str, StoredReport] | None) -> None:
        """Take in a trial as it is stored; `apart` are its reports where they are kept from Optuna."""
        record = record_of(frozen, apart or {})
        if record is None:  # asked for, and the process died before its values were written
            if frozen.state == TrialState.RUNNING:
                self._half_asked.append(frozen._trial_id)
            return
        if apart is not None:
            # The record has the reports; Optuna asks for its own values only.
            frozen.user_attrs = {k: v for k, v in frozen.user_attrs.items() if not k.startswith(EPOCH)}
        self._know(record, frozen.user_attrs["trial"].get(RUN))
        self._contenders.enter(record)
        self._reports += len(record.reports)
        self._promotions = max(self._promotions, record.turn[1] + 1 if record.turn else 0)
        if not frozen.state.is_finished():
            self._write_params(record, frozen)
            self._write_values(record, frozen)
            self._open[record.number] = Trial(self._study, frozen._trial_id)
            if record.parked is None:
                self._at_work.add(record.number)
            if record.outcome is not None:  # the process died while it was told
                self.end(record.number, record.outcome, record.reason)

    @property
    def ended_by(self) -> dict[str, Any] | None:
        """The budget that ended the search, where one did."""
        return self.known(ENDED_BY)

    def end_search(self, ended_by: Mapping[str, Any]) -> None:
        """Write down which budget ends the search."""
        self.describe({ENDED_BY: dict(ended_by)})

    def exhaust(self, why: str) -> None:
        """Write down that nothing is left to propose."""
        self.describe({EXHAUSTED: why})
        self.exhausted = why

    @property
    def is_answered(self) -> bool:
        """Whether the answer was written in full, and nothing has happened or been asked for since."""
        return is_answer(self.known(ANSWERED), self._stands())

    def answer(self) -> None:
        """Write down that the answer is written in full, as the sweep stands now."""
        self.describe({ANSWERED: self._stands()})

    def _stands(self) -> dict[str, Any]:
        return stands(self.trials.values(), telling(self.sweep))

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write down what is known of the study as a whole."""
        for key, value in attributes.items():
            self._study.set_user_attr(key, value)

    def known(self, key: str) -> Any:
        """What was described under that key; None where nothing was."""
        return self._study.user_attrs.get(key)

    def has_run(self, identity: str) -> bool:
        """Whether the base or a trial of the search is the run of that identity."""
        return identity in self._runs

    def unfinished(self) -> list[TrialRecord]:
        """Trials that have begun and not ended, oldest first."""
        return [self.trials[number] for number in sorted(self._open)]

    def at_work(self) -> list[TrialRecord]:
        """The unfinished ones but for those that wait at a rung, in the order they were handed out in."""
        found = [self.trials[number] for number in self._at_work]
        return sorted(found, key=lambda record: record.turn or (record.number + 1, -1))

    def ask(self, role: Role = "search", values: Mapping[str, Any] | None = None) -> TrialRecord:
        """A new trial; its values are the sampler's, or the given ones.

        `values` of None for role base stands for a base that lies outside the space. Raises NothingLeftError
        where the sampler finds none.
        """
        if values is not None or role == "base":
            return self._create(TrialRecord(-1, role, dict(values or {})))
        # One that a process asked for and died over keeps its number, so that what follows is as if
        # it had lived. Optuna's own way to a new one looks through all for those that were enqueued.
        storage = self._study._storage
        half = self._half_asked.pop(0) if self._half_asked else None
        trial = Trial(self._study, storage.create_new_trial(self._study._study_id) if half is None else half)
        with warnings.catch_warnings():
            # Optuna's TPE is still marked experimental where it groups conditional keys.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proposal = propose(self._study, self.sweep, trial.number, trial._trial_id, self._runs)
        record = TrialRecord(trial.number, role, proposal.values, passed_over=proposal.passed_over)
        with self._together():
            trial.set_user_attr("trial", identity(record) | {RUN: proposal.identity})
            self._write_params(record, self._study._storage.get_trial(trial._trial_id))
        return self._enter(record, trial, proposal.identity)

    def ask_again(self, confirmed: TrialRecord, seed: int) -> TrialRecord:
        """A new trial of the same config with a fresh seed. The sampler does not learn from it."""
        return self._create(TrialRecord(-1, "confirm", confirmed.values, confirmed.number, seed))

    def take_up(self, failed: TrialRecord) -> TrialRecord:
        """A new trial that goes on where a failed one ended, with the place at the rungs that it had."""
        fresh: dict[str, Any] = {**_NEW, "origin": None, "notes": [], "retries": failed.number}
        return self._create(replace(failed, **fresh))

    def take_over(
        self, other: TrialRecord, values: Mapping[str, Any], role: Role, origin: str
    ) -> TrialRecord:
        """Enter a finished trial of another sweep, with its values as this space has them."""
        assert other.outcome is not None
        fresh: dict[str, Any] = {**_NEW, "retries": None, "confirms": None, "seed": None, "passed": 0}
        taken = self._create(replace(other, values=dict(values), role=role, origin=origin, **fresh))
        return self.end(taken.number, other.outcome, other.reason)

    def _create(self, record: TrialRecord) -> TrialRecord:
        """Enter a trial whose values are known, with all that it has reported, in one write."""
        record = replace(record, reports=dict(record.reports), facts=dict(record.facts))
        run = None if record.role == "confirm" else self.sweep.identity(record.values)
        attributes: dict[str, Any] = {"trial": identity(record) | {RUN: run}, "notes": record.notes}
        for epoch, metrics in record.reports.items():
            kept = record.checkpoint if epoch == max(record.reports) else None
            facts = record.facts.get(epoch, Facts())
            if record.retries is None:  # else it was reported here, and the rungs are filled in that order
                facts = replace(facts, order=self._reports)
            record.facts[epoch] = facts
            attributes[f"{EPOCH}{epoch}"] = StoredReport(Metrics(metrics), kept, facts).attribute()
            self._reports += 1
        attributes["halved"] = record.halved
        if record.passed:
            attributes["place"] = {"parked": None, "passed": record.passed, "turn": None}
        fixed = self._fixed(record)
        template = create_trial(
            state=TrialState.RUNNING,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs=attributes,
            intermediate_values=self._values(record),
        )
        trial_id = self._study._storage.create_new_trial(self._study._study_id, template_trial=template)
        trial = Trial(self._study, trial_id)
        return self._enter(replace(record, number=trial.number), trial, run)

    def _fixed(self, record: TrialRecord) -> FixedTrial:
        """Optuna's parameters of a trial, which a rerun has none of: the sampler does not learn from it."""
        fixed = FixedTrial({} if record.role == "confirm" else self.sweep.params(record.values))
        if fixed._params:
            self.sweep.suggest(fixed)
        return fixed

    def _write_params(self, record: TrialRecord, frozen: FrozenTrial) -> None:
        """Write those parameters that are not there; the process may have died after a trial's values."""
        fixed = self._fixed(record)
        for name, distribution in fixed.distributions.items():
            if name not in frozen.params:
                internal = distribution.to_internal_repr(fixed.params[name])
                self._study._storage.set_trial_param(frozen._trial_id, name, internal, distribution)

    def _write_values(self, record: TrialRecord, frozen: FrozenTrial) -> None:
        """Write what the sampler lacks of the reports; the process may have died between the two."""
        for epoch, value in self._values(record).items():
            if epoch not in frozen.intermediate_values:
                self._study._storage.set_trial_intermediate_value(frozen._trial_id, epoch, value)

    def _values(self, record: TrialRecord) -> dict[int, float]:
        """The objective by epoch, as the sampler gets it; of several Optuna takes none on the way."""
        told = record.reports.items() if len(self.metrics) == 1 else ()
        return {epoch: metrics[self.metric] for epoch, metrics in told if self.metric in metrics}

    def _know(self, record: TrialRecord, run: str | None) -> None:
        """`run` is the identity of its run, which takes long to reckon; None where it is not known."""
        self.trials[record.number] = record
        if record.role != "confirm":
            self._runs.setdefault(run or self.sweep.identity(record.values), record.number)
        self.standing += record.retries is None
        self.searched += record.role == "search" and record.retries is None
        if record.role == "confirm":
            self.rerun.add((record.confirms, record.seed))
        if record.role == "base":
            self._bases.append(record)

    def _enter(self, record: TrialRecord, trial: Trial, run: str | None) -> TrialRecord:
        self._know(record, run)
        self._open[record.number] = trial
        self._at_work.add(record.number)
        return record

    def note(self, number: int, text: str) -> None:
        """Write down what else happened to an open trial."""
        record = self.trials[number]
        record.notes = [*record.notes, text]
        self._open[number].set_user_attr("notes", record.notes)

    def park(self, number: int, epoch: int) -> None:
        """Let an open trial wait at the rung that it has reported."""
        self._place(self.trials[number], epoch, self.trials[number].passed, self.trials[number].turn)

    def promote(self, number: int) -> TrialRecord:
        """Let a waiting trial go on."""
        record = self.trials[number]
        assert record.parked is not None
        self._place(record, None, record.parked, (len(self.trials), self._promotions))
        self._promotions += 1
        return record

    def hold(self, number: int, held: bool = True) -> None:
        """Let an open trial wait for a budget to be raised, or no longer."""
        record = self.trials[number]
        if record.held != held:
            self._open[number].set_user_attr("held", held)
            record.held = held
            self._contenders.enter(record)

    def _place(
        self, record: TrialRecord, parked: int | None, passed: int, turn: tuple[int, int] | None
    ) -> None:
        self._open[record.number].set_user_attr("place", {"parked": parked, "passed": passed, "turn": turn})
        record.parked, record.passed, record.turn = parked, passed, turn
        (self._at_work.add if parked is None else self._at_work.discard)(record.number)
        self._contenders.enter(record)

    def halve(self, number: int) -> None:
        """Let an open trial go on at half the micro-batch and twice the accumulation."""
        self._open[number].set_user_attr("halved", True)
        self.trials[number].halved = True

    def report(
        self,
        number: int,
        epoch: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        collapsed: str | None = None,
        seconds: float = 0.0,
    ) -> TrialRecord:
        """Take in an epoch's metrics; an epoch that is there already keeps what it has."""
        record, trial = self.trials[number], self._open[number]
        if epoch not in record.reports:
            facts = Facts(self._reports, time.time_ns() // 1_000_000, collapsed, seconds)
            record.facts[epoch] = facts
            kept = Metrics(metrics)
            told = StoredReport(kept, checkpoint, facts).attribute()
            with self._together():
                # Not by the trial, which would keep it too.
                self._study._storage.set_trial_user_attr(trial._trial_id, f"{EPOCH}{epoch}", told)
                # Of several objectives Optuna takes no values on the way.
                if self.metric in kept and len(self.metrics) == 1:
                    trial.report(kept[self.metric], epoch)
            record.reports[epoch] = kept
            self._reports += 1
            self._contenders.enter(record)  # one that is held up may have been in an epoch
        record.checkpoint = checkpoint or record.checkpoint
        return record

    def end(self, number: int, outcome: Outcome, reason: str = "") -> TrialRecord:
        """Close a trial."""
        record, trial = self.trials[number], self._open.pop(number)
        self._at_work.discard(number)
        values = record.figures(self.metrics)
        with self._together():
            trial.set_user_attr("end", {"outcome": outcome, "reason": reason})
            if outcome == "completed" and values is not None:
                self._study.tell(trial, values)
            else:
                # Optuna takes a pruned trial's newest report as its value; without one it has none.
                state = _STATES[outcome] if values is not None and outcome != "completed" else TrialState.FAIL
                self._study.tell(trial, state=state)
        # The outcome last: who draws the record meanwhile takes it for unchanging from then on.
        record.reason, record.parked, record.held, record.outcome = reason, None, False, outcome
        self._contenders.enter(record)
        return record

    def end_all(self, reasons: Mapping[int, str], outcome: Outcome) -> None:
        """Close several trials that end alike, each for its reason; the disk is waited for once."""
        with self._together():
            for number, reason in reasons.items():
                self.end(number, outcome, reason)

    def best(self) -> TrialRecord | None:
        """The first of the ranking."""
        return next(iter(self._contenders.first(1)), None)

    def best_found(self, count: int) -> list[TrialRecord]:
        """The first `count` of the ranking, the base left out."""
        leading = self._contenders.first(count + len(self._bases))
        return [record for record in leading if record.role == "search"][:count]

    def base(self) -> TrialRecord | None:
        """The base config's trial, once it has begun."""
        # One that was taken up again after it failed stands before the one that counts.
        return self._bases[-1] if self._bases else None

    def base_to_confirm(self) -> TrialRecord | None:
        """The base's trial to run with fresh seeds: taken up again it keeps those that it has had."""
        rerun = {number for number, _ in self.rerun}
        return next((record for record in self._bases if record.number in rerun), self.base())
