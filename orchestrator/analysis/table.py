"""The trials that effects are learnt from: their swept values, and the objective at each rung and the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord, standing


@dataclass(frozen=True)
class Table:
    """N trials, older first, and their values at S epochs."""

    sweep: Sweep
    records: list[TrialRecord]
    epochs: list[int]
    """The rungs and the end."""
    values_NS: np.ndarray
    """The objective, nan where a trial has none; once nan, so to the end of the row."""

    @cached_property
    def reached_NS(self) -> np.ndarray:
        """Where there are values."""
        return ~np.isnan(self.values_NS)

    def reached(self) -> dict[int, int]:
        """Trials with a value, by epoch."""
        return dict(zip(self.epochs, self.reached_NS.sum(axis=0).tolist(), strict=True))


def table_of(sweep: Sweep, records: Sequence[TrialRecord]) -> Table:
    """The trials of search and base with a value at the first epoch that counts.

    Failed ones are left out. One that collapsed keeps its last value to the end, for it learns no more:
    as missing it would make the choice that led to it look better than it is.
    """
    epochs = [*sweep.rungs, sweep.max_epochs]
    inside = sweep.base_values() is not None
    counted = [
        record
        for record in standing(records)
        if record.outcome != "failed" and (record.role == "search" or (record.role == "base" and inside))
    ]
    rows = [(record, _row(record, epochs, sweep.config.objective.metric)) for record in counted]
    rows = [(record, row) for record, row in rows if not math.isnan(row[0])]
    values_NS = np.array([row for _, row in rows], dtype=float).reshape(len(rows), len(epochs))
    return Table(sweep, [record for record, _ in rows], epochs, values_NS)


def _row(record: TrialRecord, epochs: Sequence[int], metric: str) -> list[float]:
    row: list[float] = []
    last = record.last(metric)
    for epoch in epochs:
        value = record.reports.get(epoch, {}).get(metric, math.nan)
        if math.isnan(value) and record.outcome == "collapsed" and last is not None:
            value = last[1]
        row.append(math.nan if row and math.isnan(row[-1]) else value)
    return row
