"""A trial's record as the attributes that its study keeps of it, and back."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, Self

from orchestrator.study.metrics import Metrics
from orchestrator.study.record import Facts, TrialRecord

EPOCH = "epoch:"
"""How the names of those attributes begin that hold reports; the epoch follows. Alone it stands for reports
that are kept from Optuna."""
ENDED_BY = "ended_by"
"""The study's attribute that names the budget that ended its search."""
ANSWERED = "answered"
"""The study's attribute that says how the sweep stood when its answer was last written; see `stands`."""
EXHAUSTED = "exhausted"
"""The study's attribute that says why the search ended before its last trial: nothing was left to propose."""
RUN = "run"
"""Where the attribute `trial` holds the identity of the trial's run."""


@dataclass(frozen=True, slots=True)
class StoredReport:
    """What is kept of a report."""

    metrics: Metrics
    checkpoint: str | None
    facts: Facts

    @classmethod
    def of(cls, attribute: Mapping[str, Any]) -> Self:
        """From what stands in an attribute."""
        facts, checkpoint = Facts(**attribute.get("facts", {})), attribute["checkpoint"]
        # Trials have the same names of files.
        return cls(Metrics(attribute["metrics"]), sys.intern(checkpoint) if checkpoint else None, facts)

    def attribute(self) -> dict[str, Any]:
        """As it stands in an attribute."""
        return {"metrics": dict(self.metrics), "checkpoint": self.checkpoint, "facts": asdict(self.facts)}


def stands(records: Iterable[TrialRecord], telling: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer is an answer to: how far the trials have come, of which the newest reports tell enough,
    and how much was asked for by `telling`, as a sweep's definition.json has it."""
    known, asked = list(records), telling["definition"]["sweep"]
    newest = (record.facts[max(record.facts)].order for record in known if record.facts)
    return {
        "trials": len(known),
        "over": sum(record.outcome is not None for record in known),
        "newest": max(newest, default=None),
        "of": telling["trials"],
        "confirm": asked["confirm"],
        "budgets": [asked["search"].get(key) for key in ("time_budget", "cost_budget")],
    }


def is_answer(answered: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether what ANSWERED says is true of a sweep that stands as `now`. What it does not say it may be."""
    return answered is not None and all(now[key] == value for key, value in answered.items() if key in now)


def identity(record: TrialRecord) -> dict[str, Any]:
    """What a trial is, as the attribute `trial` has it."""
    names = ("role", "values", "confirms", "seed", "retries", "origin", "passed_over")
    return {name: getattr(record, name) for name in names}


class State(Protocol):
    """One of Optuna's states of a trial, or what stands for it."""

    def is_finished(self) -> bool: ...


class Told(Protocol):
    """What is read of a trial: one of Optuna's, or what stands for it."""

    datetime_complete: datetime | None

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> State: ...
    @property
    def user_attrs(self) -> dict[str, Any]: ...
    @property
    def datetime_start(self) -> datetime | None: ...


def record_of(frozen: Told, reports: Mapping[str, StoredReport] = MappingProxyType({})) -> TrialRecord | None:
    """What Optuna has of a trial as a record; None where its values were never written.

    `reports` are attributes that have been kept from Optuna.
    """
    attributes = {**frozen.user_attrs, **reports}
    if "trial" not in attributes:
        return None
    told = {name: value for name, value in attributes["trial"].items() if name != RUN}
    record = TrialRecord(frozen.number, **told)
    record.notes, record.halved = list(attributes.get("notes", [])), attributes.get("halved", False)
    record.began, record.ended = frozen.datetime_start, frozen.datetime_complete
    epochs = (key.removeprefix(EPOCH) for key in attributes if key.startswith(EPOCH))
    for epoch in sorted(int(epoch) for epoch in epochs if epoch):
        report = attributes[f"{EPOCH}{epoch}"]
        if not isinstance(report, StoredReport):
            report = StoredReport.of(report)
        record.reports[epoch], record.facts[epoch] = report.metrics, report.facts
        record.checkpoint = report.checkpoint or record.checkpoint
    if "place" in attributes:
        place = attributes["place"]
        record.parked = None if "end" in attributes else place["parked"]
        record.passed = place["passed"]
        record.turn = tuple(place["turn"]) if place["turn"] else None
    record.held = attributes.get("held", False) and "end" not in attributes
    if "end" in attributes:
        record.outcome, record.reason = attributes["end"]["outcome"], attributes["end"]["reason"]
    elif frozen.state.is_finished():
        record.outcome, record.reason = "failed", "ended without a record"
    return record
