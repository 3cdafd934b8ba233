"""What a report is made of, read from a sweep's folder without a lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.analysis import analyse
from orchestrator.analysis.findings import Findings
from orchestrator.definition import SPACE
from orchestrator.process.environment import read_environments
from orchestrator.reporting.caption import references
from orchestrator.space import ConfigError, Sweep, load_sweep
from orchestrator.study.record import TrialRecord, rank, standing
from orchestrator.watching.status import read_status


@dataclass(frozen=True)
class Material:
    """A sweep as far as it has come."""

    folder: Path
    sweep: Sweep
    state: str
    """`running`, `finished` or `interrupted`."""
    records: Sequence[TrialRecord]
    environments: Sequence[dict[str, Any]]
    budgets: Sequence[str] = ()
    """What ended the search before its last trial, and how its budgets stand, in words."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.sweep.config.name

    @property
    def metric(self) -> str:
        """What makes a trial better than another."""
        return self.sweep.config.objective.metric

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return 1 if self.sweep.objective_mode == "max" else -1

    @cached_property
    def searched(self) -> list[TrialRecord]:
        """Trials of the search and the base that have a value, without failed ones."""
        found = [record for record in standing(self.records) if record.role != "confirm"]
        return [record for record in found if record.last(self.metric) and record.outcome != "failed"]

    @cached_property
    def findings(self) -> Findings:
        """What the records say."""
        return analyse(self.sweep, self.records)

    @cached_property
    def ranking(self) -> list[TrialRecord]:
        """Trials that are over or wait, those that ran longest first, better ones first."""
        return rank(self.records, self.metric, self.sweep.objective_mode)

    @property
    def best(self) -> TrialRecord | None:
        """The first of the ranking."""
        return next(iter(self.ranking), None)

    @cached_property
    def base(self) -> TrialRecord | None:
        """The base config's trial."""
        return next((record for record in standing(self.records) if record.role == "base"), None)

    @cached_property
    def full(self) -> list[TrialRecord]:
        """Trials that ran all epochs, best first: the only ones whose last values compare."""
        return [record for record in self.ranking if self.epochs(record) >= self.sweep.max_epochs]

    @cached_property
    def confirmed(self) -> list[TrialRecord]:
        """The trials whose configs were run again with fresh seeds, the base first."""
        numbers = {record.confirms for record in self.records if record.confirms is not None}
        found = [record for record in self.records if record.number in numbers]
        return sorted(found, key=lambda record: (record.role != "base", record.number))

    def trial(self, id: str) -> TrialRecord:
        """The trial that is meant by 23 or 0023. ConfigError, with those there are, where there is none."""
        found = next((record for record in self.records if id.isdecimal() and record.number == int(id)), None)
        if found is None:
            numbers = [record.id for record in self.records]
            there = f"There: {numbers[0]} to {numbers[-1]}." if numbers else "It has none yet."
            raise ConfigError(f"--trial {id}: no such trial in sweep {self.name}. {there}")
        return found

    def value(self, record: TrialRecord) -> float:
        """The newest objective; NaN where there is none."""
        last = record.last(self.metric)
        return last[1] if last else float("nan")

    def epochs(self, record: TrialRecord) -> int:
        """Epochs that a trial has done."""
        return max(record.reports, default=0)

    def values_of(self, record: TrialRecord) -> dict[str, Any]:
        """Its values of the swept keys; the base's own where they lie in the space."""
        if record.role == "base" and not record.values:
            return self.sweep.base_values() or {}
        return record.values

    def references(self) -> dict[str, float]:
        """Figures of what learning has to beat, in words, for an objective of k-NN accuracy."""
        if self.base is None or not self.metric.startswith("val/knn_top1"):
            return {}
        return references(self.base)


def read_material(folder: Path, storage: str | None = None) -> Material:
    """The sweep in `folder`, whether it runs or not. ConfigError where it cannot be read. Writes nothing.

    Its data may be on other machines only.
    """
    sweep, status = load_sweep(folder / SPACE, check_data=False), read_status(folder, storage)
    environments, budgets = read_environments(folder), status.budgets()
    return Material(folder, sweep, status.state, status.trials, environments, budgets)
