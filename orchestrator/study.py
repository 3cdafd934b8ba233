"""The durable record of a sweep: every suggestion, report, checkpoint and end, written as it happens.

An Optuna study in a journal file or a database. What Ray Tune knows is lost with its process; this is not.
"""

import heapq
import sys
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, Protocol

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState, create_trial

from orchestrator.disk import Patience
from orchestrator.journal import EPOCH, JOURNAL, Journal
from orchestrator.proposal import propose
from orchestrator.space import ConfigError, objective_mode

if TYPE_CHECKING:
    from orchestrator.space import Sweep

Role = Literal["base", "search", "confirm"]
Outcome = Literal["completed", "pruned", "collapsed", "failed"]

# A collapsed or pruned trial teaches the sampler by what it reported; a failed one teaches nothing.
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

_NEW: dict[str, Any] = {"outcome": None, "reason": "", "passed_over": {}}
"""What a trial made of another one does not take from it."""


ENDED_BY = "ended_by"
_RUN = "run"
"""Where a trial's attributes hold the identity of its run."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known of a report."""

    order: int = 0
    """Reports of the whole sweep that came before it."""
    time_ms: int = 0
    """When it came, Unix time in milliseconds."""
    collapsed: str | None = None
    """Why its features count as collapsed."""
    seconds: float = 0.0
    """How long the epoch held its workers, evaluation included."""


@dataclass
class TrialRecord:
    """What the study knows of one trial."""

    number: int
    role: Role
    values: dict[str, Any]
    """Values of the active swept keys; empty for a base that lies outside the space."""
    confirms: int | None = None
    """Number of the trial whose config this one runs again."""
    seed: int | None = None
    """Fresh seed of such a run; None: the base config's."""
    retries: int | None = None
    """Number of the failed trial that this one takes up again."""
    origin: str | None = None
    """The trial of another sweep that this one is taken from, in words."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How often something else was proposed before it and not run, by the reason."""
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by epoch."""
    facts: dict[int, Facts] = field(default_factory=dict)
    """What else is known of them, by epoch."""
    checkpoint: str | None = None
    """Newest checkpoint, its name inside the trial's folder."""
    notes: list[str] = field(default_factory=list)
    """What else happened to it, in words."""
    halved: bool = False
    """Whether it goes on at half the micro-batch and twice the accumulation."""
    parked: int | None = None
    """Rung, an epoch, at which it waits to be promoted; None while it does not."""
    passed: int = 0
    """The last rung at which it waited and was let go on; 0: none."""
    turn: tuple[int, int] | None = None
    """When that was: trials asked for, and promotions made, before it."""
    outcome: Outcome | None = None
    """None while it is not over."""
    reason: str = ""
    """Why it ended so, in words."""
    began: datetime | None = field(default=None, compare=False)
    ended: datetime | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Its name in files, records and on screen."""
        return f"{self.number:04d}"

    @property
    def kept(self) -> str | None:
        """The one of its checkpoints that stays once it is over: a completed one's last."""
        return self.checkpoint if self.outcome == "completed" else None

    def last(self, metric: str) -> tuple[int, float] | None:
        """Epoch and value of the newest report that holds `metric`."""
        newest = max(self.reports, default=None)
        if newest is not None and metric in self.reports[newest]:
            return newest, self.reports[newest][metric]  # nearly always, and asked for often
        epochs = [epoch for epoch, metrics in self.reports.items() if metric in metrics]
        return (max(epochs), self.reports[max(epochs)][metric]) if epochs else None

    def figure(self, metric: str) -> float | None:
        """Its newest value of `metric`; of a time, which neighbours disturb, the median over its epochs."""
        if metric.startswith("time/"):
            values = [metrics[metric] for metrics in self.reports.values() if metric in metrics]
            return median(values) if values else None
        last = self.last(metric)
        return None if last is None else last[1]

    def figures(self, metrics: Sequence[str]) -> list[float] | None:
        """Its value of each of `metrics`; None where it lacks one."""
        found = [value for metric in metrics if (value := self.figure(metric)) is not None]
        return found if len(found) == len(metrics) else None


class Study:
    """One sweep's record. Open it under `SweepLock`: a second writer would double every trial."""

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
        self.trials: dict[int, TrialRecord] = {}
        self._open: dict[int, Trial] = {}
        self._at_work: set[int] = set()
        """Of these, the numbers of those that do not wait at a rung."""
        self._half_asked: list[int] = []
        self._runs: dict[str, int] = {}
        """Numbers of the base and the search's trials, by the identity of their run."""
        self.searched = 0
        """Trials that the search has asked for."""
        self._bases: list[TrialRecord] = []
        self._contenders: list[tuple[int, float, int]] = []
        """A heap of who may be the best; whoever has gone on since is passed over when it comes up."""
        self._reports = 0
        self._promotions = 0
        for frozen in self._study.get_trials(deepcopy=False):
            record = record_of(frozen)
            if record is None:  # asked for, and the process died before its values were written
                if frozen.state == TrialState.RUNNING:
                    self._half_asked.append(frozen._trial_id)
                continue
            if journal is not None:
                # The record has the reports; Optuna asks for its own values only.
                frozen.user_attrs = {k: v for k, v in frozen.user_attrs.items() if not k.startswith(EPOCH)}
            self._know(record, frozen.user_attrs["trial"].get(_RUN))
            self._contend(record)
            self._reports += len(record.reports)
            self._promotions = max(self._promotions, record.turn[1] + 1 if record.turn else 0)
            if not frozen.state.is_finished():
                self._write_params(record, frozen)
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

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write down what is known of the study as a whole."""
        for key, value in attributes.items():
            self._study.set_user_attr(key, value)

    def known(self, key: str) -> Any:
        """What was described under that key; None where nothing was."""
        return self._study.user_attrs.get(key)

    def unfinished(self) -> list[TrialRecord]:
        """Trials that have begun and not ended, oldest first."""
        return [self.trials[number] for number in sorted(self._open)]

    def at_work(self) -> list[TrialRecord]:
        """The unfinished ones but for those that wait at a rung, in the order they were handed out in."""
        found = [self.trials[number] for number in self._at_work]
        return sorted(found, key=lambda record: record.turn or (record.number + 1, -1))

    def ask(self, role: Role = "search", values: Mapping[str, Any] | None = None) -> TrialRecord:
        """A new trial; its values are the sampler's, or the given ones.

        `values` of None for role base stands for a base that lies outside the space.
        """
        if values is not None or role == "base":
            return self._create(TrialRecord(-1, role, dict(values or {})))
        # One that a process asked for and died over keeps its number, so that what follows is as if
        # it had lived.
        trial = Trial(self._study, self._half_asked.pop(0)) if self._half_asked else self._study.ask()
        with warnings.catch_warnings():
            # Optuna's TPE is still marked experimental where it groups conditional keys.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proposal = propose(self._study, self.sweep, trial.number, trial._trial_id, self._runs)
        record = TrialRecord(trial.number, role, proposal.values, passed_over=proposal.passed_over)
        with self._together():
            trial.set_user_attr("trial", _identity(record) | {_RUN: proposal.identity})
            self._write_params(record, self._study._storage.get_trial(trial._trial_id))
        return self._enter(record, trial, proposal.identity)

    def ask_again(self, confirmed: TrialRecord, seed: int) -> TrialRecord:
        """A new trial of the same config with a fresh seed. The sampler does not learn from it."""
        return self._create(TrialRecord(-1, "confirm", confirmed.values, confirmed.number, seed))

    def take_up(self, failed: TrialRecord) -> TrialRecord:
        """A new trial that goes on where a failed one ended."""
        fresh: dict[str, Any] = {**_NEW, "origin": None, "notes": [], "retries": failed.number}
        return self._create(replace(failed, **fresh))

    def take_over(
        self, other: TrialRecord, values: Mapping[str, Any], role: Role, origin: str
    ) -> TrialRecord:
        """Enter a finished trial of another sweep, with its values as this space has them."""
        assert other.outcome is not None
        fresh: dict[str, Any] = {**_NEW, "retries": None, "confirms": None, "seed": None}
        taken = self._create(replace(other, values=dict(values), role=role, origin=origin, **fresh))
        return self.end(taken.number, other.outcome, other.reason)

    def _create(self, record: TrialRecord) -> TrialRecord:
        """Enter a trial whose values are known, with all that it has reported, in one write."""
        record = replace(record, reports=dict(record.reports), facts=dict(record.facts))
        run = None if record.role == "confirm" else self.sweep.identity(record.values)
        attributes: dict[str, Any] = {"trial": _identity(record) | {_RUN: run}, "notes": record.notes}
        for epoch, metrics in record.reports.items():
            kept = record.checkpoint if epoch == max(record.reports) else None
            facts = replace(record.facts.get(epoch, Facts()), order=self._reports)
            record.facts[epoch] = facts
            attributes[f"{EPOCH}{epoch}"] = {"metrics": metrics, "checkpoint": kept, "facts": asdict(facts)}
            self._reports += 1
        attributes["halved"] = record.halved
        fixed = self._fixed(record)
        template = create_trial(
            state=TrialState.RUNNING,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs=attributes,
            intermediate_values={
                epoch: metrics[self.metric]
                for epoch, metrics in record.reports.items()
                if self.metric in metrics and len(self.metrics) == 1
            },
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

    def _know(self, record: TrialRecord, run: str | None) -> None:
        """`run` is the identity of its run, which takes long to reckon; None where it is not known."""
        self.trials[record.number] = record
        if record.role != "confirm":
            self._runs.setdefault(run or self.sweep.identity(record.values), record.number)
        self.searched += record.role == "search" and record.retries is None
        if record.role == "base":
            self._bases.append(record)

    def _enter(self, record: TrialRecord, trial: Trial, run: str | None) -> TrialRecord:
        self._know(record, run)
        self._open[record.number] = trial
        self._at_work.add(record.number)
        return record

    def _contend(self, record: TrialRecord) -> None:
        place = _place_of(record, self.metric, self.sweep.objective_mode)
        if place is not None:
            heapq.heappush(self._contenders, (-place[0], -place[1], record.number))

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

    def _place(
        self, record: TrialRecord, parked: int | None, passed: int, turn: tuple[int, int] | None
    ) -> None:
        self._open[record.number].set_user_attr("place", {"parked": parked, "passed": passed, "turn": turn})
        record.parked, record.passed, record.turn = parked, passed, turn
        (self._at_work.add if parked is None else self._at_work.discard)(record.number)
        self._contend(record)

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
            # As they come from another process, each report has names of its own.
            kept = {sys.intern(name): value for name, value in metrics.items()}
            told = {"metrics": kept, "checkpoint": checkpoint, "facts": asdict(facts)}
            with self._together():
                # Not by the trial, which would keep it too.
                self._study._storage.set_trial_user_attr(trial._trial_id, f"{EPOCH}{epoch}", told)
                # Of several objectives Optuna takes no values on the way.
                if self.metric in kept and len(self.metrics) == 1:
                    trial.report(kept[self.metric], epoch)
            record.reports[epoch] = kept
            self._reports += 1
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
        record.reason, record.parked, record.outcome = reason, None, outcome
        self._contend(record)
        return record

    def ranking(self) -> list[TrialRecord]:
        """Trials of search and base with a value, those that ran longest first, better ones first."""
        return rank(self.trials.values(), self.metric, self.sweep.objective_mode)

    def best(self) -> TrialRecord | None:
        """The first of the ranking."""
        while self._contenders:
            epoch, value, number = self._contenders[0]
            record = self.trials[number]
            if _place_of(record, self.metric, self.sweep.objective_mode) == (-epoch, -value):
                return record
            heapq.heappop(self._contenders)
        return None

    def base(self) -> TrialRecord | None:
        """The base config's trial, once it has begun."""
        # One that was taken up again after it failed stands before the one that counts.
        return self._bases[-1] if self._bases else None


def rank(records: Iterable[TrialRecord], metric: str, mode: str) -> list[TrialRecord]:
    """Trials of search and base with a value, those that ran longest first, better ones first."""
    found = [(place, record) for record in records if (place := _place_of(record, metric, mode)) is not None]
    # sorted() keeps the older of two equal ones first.
    return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _place_of(record: TrialRecord, metric: str, mode: str) -> tuple[int, float] | None:
    """What a trial is ranked by, more being better; None where it is not ranked."""
    over = record.outcome in ("completed", "pruned") or record.parked is not None
    last = record.last(metric) if over and record.role != "confirm" else None
    return None if last is None else (last[0], last[1] if mode == "max" else -last[1])


def standing(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that count: without the failed ones that others have taken up again."""
    everyone = list(records)
    taken_up = {record.retries for record in everyone}
    return [record for record in everyone if record.number not in taken_up]


def read_trials(folder: Path) -> list[TrialRecord]:
    """The trials of a journal, whether its sweep runs or not. Takes no lock and writes nothing.

    Raises ConfigError where there is none.
    """
    storage = read_journal(folder)
    studies = storage.get_all_studies()
    return trials_of(storage, studies[0].study_name) if studies else []


def read_journal(folder: Path) -> JournalStorage:
    """A journal, to be read only. Raises ConfigError where there is none."""
    path = folder / JOURNAL
    if not path.exists():
        raise ConfigError(f"{path}: no such record of a sweep.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path)))


def ending_of(storage: BaseStorage, name: str) -> dict[str, Any] | None:
    """The budget that ended the search of the study `name`, if one did."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get(ENDED_BY)
    except KeyError:
        return None


def trials_of(storage: BaseStorage, name: str) -> list[TrialRecord]:
    """The trials of the study `name`; none where there is no such study."""
    try:
        found = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    except KeyError:
        return []
    return [record for frozen in found if (record := record_of(frozen)) is not None]


def _identity(record: TrialRecord) -> dict[str, Any]:
    names = ("role", "values", "confirms", "seed", "retries", "origin", "passed_over")
    return {name: getattr(record, name) for name in names}


class Told(Protocol):
    """What is read of a trial: one of Optuna's, or what stands for it."""

    state: TrialState
    datetime_complete: datetime | None

    @property
    def number(self) -> int: ...
    @property
    def user_attrs(self) -> dict[str, Any]: ...
    @property
    def datetime_start(self) -> datetime | None: ...


def record_of(frozen: Told) -> TrialRecord | None:
    """What Optuna has of a trial as a record; None where its values were never written."""
    attributes = frozen.user_attrs
    if "trial" not in attributes:
        return None
    told = {name: value for name, value in attributes["trial"].items() if name != _RUN}
    record = TrialRecord(frozen.number, **told)
    record.notes, record.halved = list(attributes.get("notes", [])), attributes.get("halved", False)
    record.began, record.ended = frozen.datetime_start, frozen.datetime_complete
    epochs = sorted(int(key.partition(":")[2]) for key in attributes if key.startswith(EPOCH))
    for epoch in epochs:
        report = attributes[f"{EPOCH}{epoch}"]
        record.reports[epoch] = report["metrics"]
        record.facts[epoch] = Facts(**report.get("facts", {}))
        record.checkpoint = report["checkpoint"] or record.checkpoint
    if "place" in attributes and "end" not in attributes:
        place = attributes["place"]
        record.parked, record.passed = place["parked"], place["passed"]
        record.turn = tuple(place["turn"]) if place["turn"] else None
    if "end" in attributes:
        record.outcome, record.reason = attributes["end"]["outcome"], attributes["end"]["reason"]
    elif frozen.state.is_finished():
        record.outcome, record.reason = "failed", "ended without a record"
    return record
