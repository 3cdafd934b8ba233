"""The durable record of a sweep: every suggestion, report, checkpoint and end, written as it happens.

An Optuna study in a journal file. What Ray Tune knows is lost with its process; this is not.
"""

import fcntl
import os
import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from orchestrator.space import ConfigError, Sweep

Role = Literal["base", "search", "confirm"]
Outcome = Literal["completed", "pruned", "collapsed", "failed"]

# A collapsed or pruned trial teaches the sampler by what it reported; a failed one teaches nothing.
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "collapsed": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


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
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by epoch."""
    checkpoint: str | None = None
    """Newest checkpoint, relative to the sweep's folder."""
    outcome: Outcome | None = None
    """None while it is not over."""
    reason: str = ""
    """Why it ended so, in words."""

    @property
    def id(self) -> str:
        """Its name in files, records and on screen."""
        return f"{self.number:04d}"

    def last(self, metric: str) -> tuple[int, float] | None:
        """Epoch and value of the newest report that holds `metric`."""
        epochs = [epoch for epoch, metrics in self.reports.items() if metric in metrics]
        return (max(epochs), self.reports[max(epochs)][metric]) if epochs else None


class Study:
    """One sweep's record. Open it under `SweepLock`: a second writer would double every trial."""

    def __init__(self, folder: Path, sweep: Sweep, sampler: BaseSampler):
        """Create the record in `folder`, or open the one that is there."""
        self.folder, self.sweep = folder, sweep
        self.metric = sweep.config.objective.metric
        direction = "maximize" if sweep.objective_mode == "max" else "minimize"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / "study.journal"
        _drop_torn_line(journal)
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_JournalLock(journal)))
        self._study = optuna.create_study(
            study_name=sweep.config.name,
            storage=storage,
            direction=direction,
            sampler=sampler,
            load_if_exists=True,
        )
        if "id" not in self._study.user_attrs:
            self._study.set_user_attr("id", uuid.uuid4().hex)
        self.id: str = self._study.user_attrs["id"]
        self.trials: dict[int, TrialRecord] = {}
        self._open: dict[int, Trial] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            record = _record(frozen)
            if record is None:  # asked for, and the process died before its values were written
                if frozen.state == TrialState.RUNNING:
                    self._study.tell(frozen.number, state=TrialState.FAIL)
                continue
            self.trials[record.number] = record
            if not frozen.state.is_finished():
                self._open[record.number] = Trial(self._study, frozen._trial_id)
                if record.outcome is not None:  # the process died while it was told
                    self.end(record.number, record.outcome, record.reason)

    def use_sampler(self, sampler: BaseSampler) -> None:
        """Let `sampler` propose from now on."""
        self._study.sampler = sampler

    def unfinished(self) -> list[TrialRecord]:
        """Trials that have begun and not ended, oldest first."""
        return [self.trials[number] for number in sorted(self._open)]

    def ask(self, role: Role = "search", values: Mapping[str, Any] | None = None) -> TrialRecord:
        """A new trial; its values are the sampler's, or the given ones.

        `values` of None for role base stands for a base that lies outside the space.
        """
        if values is not None:
            self._study.enqueue_trial(self.sweep.params(values))
        trial = self._study.ask()
        outside = role == "base" and values is None
        with warnings.catch_warnings():
            # Optuna's TPE is still marked experimental where it groups conditional keys.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            chosen = {} if outside else self.sweep.suggest(trial)
        return self._enter(trial, TrialRecord(trial.number, role, chosen))

    def ask_again(self, confirmed: TrialRecord, seed: int) -> TrialRecord:
        """A new trial of the same config with a fresh seed. The sampler does not learn from it."""
        trial = self._study.ask()
        again = TrialRecord(trial.number, "confirm", confirmed.values, confirmed.number, seed)
        return self._enter(trial, again)

    def _enter(self, trial: Trial, record: TrialRecord) -> TrialRecord:
        kept = ("role", "values", "confirms", "seed")
        trial.set_user_attr("trial", {name: getattr(record, name) for name in kept})
        self.trials[record.number] = record
        self._open[record.number] = trial
        return record

    def report(
        self, number: int, epoch: int, metrics: Mapping[str, float], checkpoint: str | None
    ) -> TrialRecord:
        """Take in an epoch's metrics; an epoch that is there already keeps what it has."""
        record, trial = self.trials[number], self._open[number]
        if epoch not in record.reports:
            kept = dict(metrics)
            trial.set_user_attr(f"epoch:{epoch}", {"metrics": kept, "checkpoint": checkpoint})
            if self.metric in kept:
                trial.report(kept[self.metric], epoch)
            record.reports[epoch] = kept
        record.checkpoint = checkpoint or record.checkpoint
        return record

    def end(self, number: int, outcome: Outcome, reason: str = "") -> TrialRecord:
        """Close a trial."""
        record, trial = self.trials[number], self._open.pop(number)
        trial.set_user_attr("end", {"outcome": outcome, "reason": reason})
        last = record.last(self.metric)
        if outcome == "completed" and last is not None:
            self._study.tell(trial, last[1])
        else:
            # Optuna takes a pruned trial's newest report as its value; without one it has none.
            state = _STATES[outcome] if last is not None else TrialState.FAIL
            self._study.tell(trial, state=state)
        record.outcome, record.reason = outcome, reason
        return record

    def ranking(self) -> list[TrialRecord]:
        """Trials of search and base with a value, those that ran longest first, better ones first."""
        sign = 1 if self.sweep.objective_mode == "max" else -1
        found = [
            ((last[0], sign * last[1]), record)
            for record in self.trials.values()
            if record.role != "confirm"
            and record.outcome in ("completed", "pruned")
            and (last := record.last(self.metric))
        ]
        # sorted() keeps the older of two equal ones first.
        return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def best(self) -> TrialRecord | None:
        """The first of the ranking."""
        return next(iter(self.ranking()), None)

    def base(self) -> TrialRecord | None:
        """The base config's trial, once it has begun."""
        return next((record for record in self.trials.values() if record.role == "base"), None)


def _record(frozen: FrozenTrial) -> TrialRecord | None:
    attributes = frozen.user_attrs
    if "trial" not in attributes:
        return None
    record = TrialRecord(frozen.number, **attributes["trial"])
    epochs = sorted(int(key.partition(":")[2]) for key in attributes if key.startswith("epoch:"))
    for epoch in epochs:
        report = attributes[f"epoch:{epoch}"]
        record.reports[epoch] = report["metrics"]
        record.checkpoint = report["checkpoint"] or record.checkpoint
    if "end" in attributes:
        record.outcome, record.reason = attributes["end"]["outcome"], attributes["end"]["reason"]
    elif frozen.state.is_finished():
        record.outcome, record.reason = "failed", "ended without a record"
    return record


class _JournalLock(JournalFileOpenLock):
    """Held for a single read or write of the journal.

    Optuna's own locks are files, which a killed process leaves behind; a resumed sweep would wait for
    ever. This one is the kernel's, and gone with its holder.
    """

    def __init__(self, journal: Path):
        self._path = journal.with_suffix(".lock")

    def acquire(self) -> bool:
        self._file = self._path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._file.close()


def _drop_torn_line(journal: Path) -> None:
    """Cut off a last line that a crash left half-written: Optuna would append to it and read neither."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


class SweepLock:
    """Held while a process runs a sweep; the kernel lets go of it when the process dies."""

    def __init__(self, folder: Path):
        """Raises ConfigError, naming the holder, where another process has it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise ConfigError(f"{folder}: this sweep is running already: {holder}.") from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        self._file.flush()

    def release(self) -> None:
        """Let go."""
        with suppress(OSError):
            self._file.truncate(0)
        self._file.close()
