"""A trial once more, by itself, and whether it reports the same again."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.engine.trial import Task, TrialWork
from orchestrator.process.state import OwnFolder
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord
from orchestrator.tracking.chronicle import run_config

CLOCK = "time/"
"""Metrics that no two runs share."""


@dataclass(frozen=True)
class Repetition:
    """One epoch, recorded and done again."""

    epoch: int
    differing: Mapping[str, tuple[float | None, float | None]]
    """Recorded and repeated figure of each metric that is not the same, to the last digit."""
    compared: int
    """Metrics looked at."""


def repeat(sweep: Sweep, record: TrialRecord) -> Iterator[Repetition]:
    """Run a trial's config again in a scratch folder, in one process, as far as it has reported."""
    run = run_config(sweep, record).model_copy(update={"distributed": sweep.base.distributed})
    with OwnFolder("s") as scratch:
        task = Task(record.number, run.model_dump_json(), str(scratch), baselines=record.role == "base")
        work = TrialWork(task)
        try:
            for epoch in sorted(record.reports):
                again = work.step().metrics
                yield Repetition(epoch, *_compare(record.reports[epoch], again))
        finally:
            work.close()


def _compare(
    recorded: Mapping[str, float], again: Mapping[str, float]
) -> tuple[dict[str, tuple[float | None, float | None]], int]:
    names = sorted(name for name in recorded.keys() | again.keys() if not name.startswith(CLOCK))
    pairs = {name: (recorded.get(name), again.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same(*pair)}, len(pairs)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return False
    return one == other or (math.isnan(one) and math.isnan(other))
