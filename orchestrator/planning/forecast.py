"""What a sweep will likely run, by playing it through with its own scheduler on random learning curves."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.search.decision import first_look
from orchestrator.search.halving import KINDS, PromotingAsha, audited
from orchestrator.space import Sweep
from orchestrator.study.record import Role

PLAYS = 200
LOW, HIGH = 0.05, 0.95
MOST_DRIFT = 1.0
"""By how much, in standard deviations between configs, the last proposal may be better than the first on
average: random search learns nothing, others something."""


@dataclass(frozen=True)
class Rates:
    """What the parts of a sweep take, in seconds."""

    base_epoch_s: float
    epoch_s: Sequence[float]
    """Of trials, one of which is drawn for each."""
    baselines_s: float = 0.0
    start_s: float = 0.0
    """Until the first trials begin, with places for all."""
    change_s: float = 0.0
    """From one trial's end to the next one's begin."""


@dataclass(frozen=True)
class Range:
    """A quantity over many plays."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], spread: float = 0.0) -> "Range":
        """Median, and where nine tenths of `values` lie, widened by a share of `spread` at each end."""
        ordered = sorted(values)
        last = len(ordered) - 1
        low, high = ordered[round(LOW * last)], ordered[round(HIGH * last)]
        return cls(ordered[last // 2], low / (1 + spread), high * (1 + spread))

    def shown(self, show: Callable[[float], str]) -> str:
        """For people: median, and the two ends."""
        return f"{show(self.median)} ({show(self.low)} to {show(self.high)})"


@dataclass
class Play:
    """One sweep, played through."""

    epochs: int = 0
    """Of all trials, the base's and the fresh seeds' included."""
    search_epochs: int = 0
    completed: int = 0
    """Trials that ran to their last epoch; each keeps a checkpoint."""
    search_completed: bool = False
    """Whether one of the search's did."""
    worker_s: float = 0.0
    """Seconds that places were held."""
    wall_s: float = 0.0
    reached: dict[int, int] = field(default_factory=dict)
    """The search's trials that reported each rung."""


@dataclass
class _Trial:
    number: int
    role: Role
    quality: float
    epoch_s: float
    epoch: int = 0


def play(sweep: Sweep, places: int, rates: Rates, rng: random.Random) -> Play:
    """One sweep with `places` trials at a time, and no failures."""
    found = Play(reached=dict.fromkeys(sweep.rungs, 0))
    settings = sweep.config.scheduler
    asha = KINDS[settings.type](sweep.rungs, settings.reduction_factor, "max")
    parked: dict[int, _Trial] = {}
    drift = rng.uniform(0, MOST_DRIFT) if sweep.config.search.learns else 0.0

    def trial(number: int, role: Role) -> _Trial:
        better = drift * number / max(1, sweep.num_trials) if role == "search" else 0.0
        seconds = rng.choice(rates.epoch_s) if role == "search" else rates.base_epoch_s
        return _Trial(number, role, rng.gauss(better, 1), seconds)

    def goes_on(one: _Trial) -> bool:
        # The further a trial is, the more of its value is its own and the less is chance.
        noise = rng.gauss(0, 1 - one.epoch / sweep.max_epochs)
        asha.record(one.number, one.epoch, one.quality + noise)
        if one.epoch >= sweep.max_epochs:
            found.completed += 1
            found.search_completed |= one.role == "search"
            return False
        kept = one.role != "search" or audited(sweep.config.search.seed, settings.audit, one.number)
        if kept or one.epoch < first_look(sweep, one.number) or asha.goes_on(one.number, one.epoch):
            return True
        if isinstance(asha, PromotingAsha):
            asha.park(one.number, one.epoch)
            parked[one.number] = one
        return False

    def promoted(last: bool) -> _Trial | None:
        """A waiting trial that goes on; at the `last`, the best one where none has got to the end."""
        if not isinstance(asha, PromotingAsha):
            return None
        number = asha.promotable()
        if number is None and last and not found.search_completed:
            number = asha.furthest()
        if number is None:
            return None
        asha.release(number)
        return parked.pop(number)

    searched = [trial(0, "base"), *(trial(i + 1, "search") for i in range(sweep.num_trials))]
    # Who is run again is known when all have ended.
    again = [trial(sweep.num_trials + 1 + i, "confirm") for i in range(sweep.num_confirmations)]
    now = rates.start_s
    for stage in (searched, again):
        now = _run(stage, places, rates, found, goes_on, promoted, now)
    found.wall_s = now
    return found


def _run(
    stage: Sequence[_Trial],
    places: int,
    rates: Rates,
    found: Play,
    goes_on: Callable[[_Trial], bool],
    promoted: Callable[[bool], _Trial | None],
    now: float,
) -> float:
    """Play a stage of trials from `now` until all have ended; when that is."""
    waiting, order = iter(stage), itertools.count()
    running: list[tuple[float, int, _Trial]] = []

    def fill(at: float) -> None:
        while len(running) < places:
            one = promoted(False) or next(waiting, None) or (None if running else promoted(True))
            if one is None:
                return
            extra = rates.baselines_s if one.role == "base" else 0.0
            heapq.heappush(running, (at + one.epoch_s + extra, next(order), one))

    fill(now)
    while running:
        now, _, one = heapq.heappop(running)
        one.epoch += 1
        found.epochs += 1
        found.search_epochs += one.role == "search"
        found.worker_s += one.epoch_s + (rates.baselines_s if one.role == "base" and one.epoch == 1 else 0)
        if one.role == "search" and one.epoch in found.reached:
            found.reached[one.epoch] += 1
        if goes_on(one):
            heapq.heappush(running, (now + one.epoch_s, next(order), one))
        else:
            fill(now + rates.change_s)
    return now


def plays(sweep: Sweep, places: int, rates: Rates, count: int = PLAYS) -> list[Play]:
    """Many sweeps, the same each time."""
    return [play(sweep, places, rates, random.Random(number)) for number in range(count)]
