"""Several objectives: what a trial has reached in each, and which trials no other one beats."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.space import objective_mode

if TYPE_CHECKING:
    from orchestrator.study import TrialRecord


def figure(record: "TrialRecord", metric: str) -> float | None:
    """A trial's newest value of `metric`; the median of what is measured in time, which neighbours disturb."""
    if metric.startswith("time/"):
        values = [metrics[metric] for metrics in record.reports.values() if metric in metrics]
        return median(values) if values else None
    last = record.last(metric)
    return None if last is None else last[1]


def figures(record: "TrialRecord", metrics: Sequence[str]) -> list[float] | None:
    """A trial's value of each of `metrics`; None where it lacks one."""
    found = [value for metric in metrics if (value := figure(record, metric)) is not None]
    return found if len(found) == len(metrics) else None


def front(records: Iterable["TrialRecord"], metrics: Sequence[str]) -> list["TrialRecord"]:
    """Of the completed trials of base and search those that no other one beats: equals it or is better in all
    `metrics`, and is better in one. Best by the first of them first.
    """
    signs = [1 if objective_mode(metric) == "max" else -1 for metric in metrics]
    reached: dict[int, tuple[float, ...]] = {}
    known: Mapping[int, TrialRecord] = {record.number: record for record in records}
    for number, record in known.items():
        if record.role != "confirm" and record.outcome == "completed" and (found := figures(record, metrics)):
            reached[number] = tuple(sign * value for sign, value in zip(signs, found, strict=True))
    kept = [number for number, own in reached.items() if not any(beats(one, own) for one in reached.values())]
    return [
        known[number] for number in sorted(kept, key=lambda number: (reached[number], -number), reverse=True)
    ]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere less than `other`, and somewhere more."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
