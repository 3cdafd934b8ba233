"""Several objectives: which trials no other one beats in all of them."""

from collections.abc import Iterable, Sequence

from orchestrator.space import objective_mode
from orchestrator.study.record import TrialRecord


def front(records: Iterable[TrialRecord], metrics: Sequence[str]) -> list[TrialRecord]:
    """Of the completed trials of base and search those that no other one beats: equals it or is better in all
    `metrics`, and is better in one. Best by the first of them first.
    """
    signs = [1 if objective_mode(metric) == "max" else -1 for metric in metrics]
    reached: list[tuple[tuple[float, ...], TrialRecord]] = []
    for record in records:
        if record.role != "confirm" and record.outcome == "completed" and (found := record.figures(metrics)):
            own = tuple(sign * value for sign, value in zip(signs, found, strict=True))
            reached.append((own, record))
    kept = [(own, record) for own, record in reached if not any(beats(one, own) for one, _ in reached)]
    # sorted() keeps the older of two equal ones first.
    return [record for _, record in sorted(kept, key=lambda pair: pair[0], reverse=True)]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere less than `other`, and somewhere more."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
