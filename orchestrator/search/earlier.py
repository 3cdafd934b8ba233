"""What earlier sweeps tell a new one, `search.warm_start`: their trials in this space's terms.

Of a trial counts how much better it was than the median of its sweep at the epoch that it came to, since
another base or another length puts all of a sweep's values elsewhere. It is read once, when a sweep begins,
and kept in its study.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from orchestrator.definition import SPACE, find_sweep
from orchestrator.search.sampler import NumberedSampler
from orchestrator.space import ConfigError, load_sweep
from orchestrator.space.keys import value_at
from orchestrator.study.place import place_of
from orchestrator.study.reading import read_study
from orchestrator.study.record import TrialRecord
from orchestrator.study.study import Study

if TYPE_CHECKING:
    from orchestrator.space import Sweep

KEPT = "earlier"
"""Name in the study of what was read."""


@dataclass(frozen=True)
class Earlier:
    """A trial of an earlier sweep."""

    values: dict[str, Any]
    """Of this space's keys."""
    completed: bool
    epoch: int
    """How far it came, in epochs of this sweep: a rung or the end, where it has rungs."""
    usual: float
    """Median of its sweep's trials at that point."""
    above: float
    """By how much its own value lay above that."""


def read_earlier(results: Path, sweep: "Sweep") -> list[Earlier]:
    """The trials that `search.warm_start` names, oldest first; a sweep that is running gives those so far.

    Raises ConfigError where there is no such sweep, it was judged otherwise, or tells nothing of this space.
    """
    return [trial for name in sweep.config.search.warm_start for trial in _of_sweep(results, name, sweep)]


def learn(study: Study, results: Path) -> None:
    """Let the sampler of a study know of earlier sweeps, as they were when it began."""
    sweep = study.sweep
    if not sweep.config.search.warm_start:
        return
    if study.known(KEPT) is None:
        study.describe({KEPT: [asdict(trial) for trial in read_earlier(results, sweep)]})
    kept = [Earlier(**trial) for trial in study.known(KEPT)]
    assert isinstance(study.sampler, NumberedSampler)
    study.sampler.elsewhere = Lore(kept, sweep)


class Lore:
    """Earlier trials as Optuna's, older than all of a study's own, with values on the scale of those."""

    def __init__(self, earlier: Sequence[Earlier], sweep: "Sweep"):
        self._trials = [(trial, _fixed(trial, sweep)) for trial in earlier]

    def __call__(self, own: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        usual = {epoch: _median_at(epoch, own) for epoch in {trial.epoch for trial, _ in self._trials}}
        found = []
        for number, (trial, fixed) in enumerate(self._trials, start=-len(self._trials)):
            there = usual[trial.epoch]
            value = (trial.usual if there is None else there) + trial.above
            seen = create_trial(
                state=TrialState.COMPLETE if trial.completed else TrialState.PRUNED,
                value=value,
                params=fixed.params,
                distributions=fixed.distributions,
                intermediate_values={trial.epoch: value},
            )
            seen.number = number
            found.append(seen)
        return found


def _fixed(trial: Earlier, sweep: "Sweep") -> FixedTrial:
    fixed = FixedTrial(sweep.params(trial.values))
    sweep.suggest(fixed)
    return fixed


def _median_at(epoch: int, own: Sequence[FrozenTrial]) -> float | None:
    found = [value for t in own if math.isfinite(value := t.intermediate_values.get(epoch, math.nan))]
    return median(found) if found else None


def _of_sweep(results: Path, name: str, sweep: "Sweep") -> list[Earlier]:
    where = f"{sweep.path}: search.warm_start: {name}"
    if name == sweep.config.name:
        raise ConfigError(f"{where}: is this sweep itself; name earlier ones.")
    folder = find_sweep(results, name)
    other = load_sweep(folder / SPACE, check_data=False)
    metric = sweep.config.objective.metric
    if other.config.objective.metric != metric:
        raise ConfigError(f"{where}: was judged by {other.config.objective.metric}, this sweep by {metric}.")
    if not sweep.config.space.keys() & other.config.space.keys():
        raise ConfigError(
            f"{where}: varies none of this sweep's keys: it has {', '.join(other.config.space)}; "
            f"this one {', '.join(sweep.config.space)}."
        )
    known = [record for record in read_study(folder, place_of(folder, None)) if record.role == "search"]
    found = [told for record in known if (told := _told(record, known, other, sweep)) is not None]
    if not found:
        outside = sorted({key for record in known for key in _outside(_values(record, other, sweep), sweep)})
        why = f"it has other values of {', '.join(outside)}" if outside else "none of them has a value"
        raise ConfigError(f"{where}: none of its trials lies in this space: {why}.")
    return found


def _told(
    record: TrialRecord, known: Sequence[TrialRecord], other: "Sweep", sweep: "Sweep"
) -> Earlier | None:
    """A trial in this space's terms; None where it tells nothing here."""
    metric = sweep.config.objective.metric
    last = record.last(metric)
    if last is None or not math.isfinite(last[1]) or record.outcome == "failed":
        return None
    values = _values(record, other, sweep)
    if _outside(values, sweep):
        return None
    epoch, value = last
    there = (r.reports.get(epoch, {}).get(metric, math.nan) for r in known)
    usual = median(filter(math.isfinite, there))  # a run that diverged stands nowhere among others
    here = epoch * sweep.max_epochs / other.max_epochs
    if sweep.rungs:  # this sweep's own trials are compared nowhere else
        here = min(sweep.looks, key=lambda look: abs(math.log(look / here)))
    return Earlier(values, record.outcome == "completed", max(1, round(here)), usual, value - usual)


def _values(record: TrialRecord, other: "Sweep", sweep: "Sweep") -> dict[str, Any]:
    """What a trial of another sweep had of this one's keys."""
    data = other.resolve(record.values).model_dump(mode="json")
    return sweep.complete(lambda key: value_at(data, key))


def _outside(values: dict[str, Any], sweep: "Sweep") -> list[str]:
    """The keys of which this space has no such value."""
    return [key for key, value in values.items() if value not in sweep.config.space[key]]
