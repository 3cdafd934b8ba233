"""What is known of one trial: its values, what it has reported, and how it stands or ended.

Knows nothing of how that is kept, so that who only asks after a sweep need not import Optuna.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any, Literal

Role = Literal["base", "search", "confirm"]
Outcome = Literal["completed", "pruned", "collapsed", "failed"]


REFERENCES = {
    "pretrained/knn_top1": "pretrained weights",
    "random_init/knn_top1": "random initialisation",
    "raw_pixels/knn_top1": "raw pixels",
}
"""Metrics that learning has to beat, and what each is of, in words."""


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
    reports: dict[int, Mapping[str, float]] = field(default_factory=dict)
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
    held: bool = False
    """Whether it waits for a budget to be raised."""
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

    @property
    def references(self) -> dict[str, float]:
        """What learning has to beat, by metric; a base's first report has it."""
        return {name: m[name] for m in self.reports.values() for name in REFERENCES if name in m}

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


def rank(records: Iterable[TrialRecord], metric: str, mode: str) -> list[TrialRecord]:
    """Trials of search and base with a value, those that ran longest first, better ones first."""
    found = [(place, record) for record in records if (place := place_of(record, metric, mode)) is not None]
    # sorted() keeps the older of two equal ones first.
    return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]


def place_of(record: TrialRecord, metric: str, mode: str) -> tuple[int, float] | None:
    """What a trial is ranked by, more being better; None where it is not ranked."""
    rests = record.outcome in ("completed", "pruned") or record.parked is not None or record.held
    last = record.last(metric) if rests and record.role != "confirm" else None
    return (
        None
        if last is None or not math.isfinite(last[1])
        else (last[0], last[1] if mode == "max" else -last[1])
    )


def drawn_as(record: TrialRecord, trials: Mapping[int, TrialRecord]) -> int:
    """The number by which draws for a trial go: of one that takes up a failed one, that one's."""
    while record.retries is not None:
        record = trials[record.retries]
    return record.number


def standing(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that count: without the failed ones that others have taken up again."""
    everyone = list(records)
    taken_up = {record.retries for record in everyone}
    return [record for record in everyone if record.number not in taken_up]
