"""A sweep played through before it runs, in worlds that are made up: does it find what is good, and what for?

The search's own sampler, rungs and agenda run on a simulated clock (orchestrator/planning/simulate.py); what
trials report is drawn from a world, in which each swept key has an effect of its own. Beside the sweep as it
is written, the same trials run without early stopping, and drawn at random.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from orchestrator.planning.forecast import Range
from orchestrator.planning.simulate import simulate
from orchestrator.space import ConfigError, Sweep
from orchestrator.space.distribution import Distribution
from orchestrator.space.satisfiable import draws
from orchestrator.study.record import TrialRecord, rank

SPREAD = 0.03
"""Standard deviation of quality between configurations: 3 points of accuracy."""
RUN_NOISE, EPOCH_NOISE = 0.01, 0.005
"""Standard deviations between runs of one configuration, and of each epoch by itself."""
PACES = (0.08, 0.35)
"""How soon a run comes near its end's quality, as a share of its epochs: a slow one may yet be the best."""
NEAR = 0.005
"""So far below the best a winner counts as good: half a point."""
CANDIDATES = 400
"""Configurations drawn to know how good the best one is."""
DRAW_LIMIT = 4000


class World:
    """A landscape over a space: a sum of one effect for each key that a configuration varies, and noise."""

    def __init__(self, sweep: Sweep, seed: int, candidates: Sequence[Mapping[str, Any]]):
        """`candidates` are configurations among which the best one is looked for."""
        self._sweep, self._seed = sweep, seed
        self._sign = 1 if sweep.objective_mode == "max" else -1
        raw = [self._effects(values) for values in candidates]
        self._mean, self._deviation = float(np.mean(raw)), float(np.std(raw)) or 1.0
        self.best = max(map(self.quality, candidates))

    def quality(self, values: Mapping[str, Any]) -> float:
        """What a configuration comes to, without noise; more is better. Without values, as from outside the
        space, it is an average one."""
        return 0.0 if not values else SPREAD * (self._effects(values) - self._mean) / self._deviation

    def curve(self, record: TrialRecord) -> list[float]:
        """What a trial reports, epoch by epoch."""
        rng = np.random.default_rng([self._seed, record.number])
        low, high = PACES
        epochs = self._sweep.max_epochs
        pace = epochs * math.exp(rng.uniform(math.log(low), math.log(high)))
        reached = 1 - np.exp(-np.arange(1, epochs + 1) / pace)
        noise = RUN_NOISE * rng.standard_normal() + EPOCH_NOISE * rng.standard_normal(epochs)
        values = self._sign * (0.5 + reached * (0.2 + self.quality(record.values)) + noise)
        return [float(value) for value in values]

    def _effects(self, values: Mapping[str, Any]) -> float:
        space = self._sweep.config.space
        return sum(
            self._effect(name, value, space[key])
            for key in values
            for name, value in space[key].params(key, values[key]).items()
        )

    def _effect(self, name: str, value: Any, distribution: Distribution) -> float:
        """Of a choice, a draw for each; along a range, a hill whose top lies somewhere in it."""
        place = [self._seed, zlib.crc32(name.encode())]
        if isinstance(value, str):
            return float(np.random.default_rng([*place, zlib.crc32(value.encode())]).standard_normal())
        top = np.random.default_rng(place).uniform(0.1, 0.9)
        return float(-6 * (_share(value, distribution) - top) ** 2)


def _share(value: float, distribution: Distribution) -> float:
    """Where in its range a value lies, from 0 to 1."""
    if distribution.simplex:
        return value
    low, high = distribution.arguments[:2]
    if distribution.kind in ("loguniform", "lograndint"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


@dataclass(frozen=True)
class Rehearsed:
    """A way to search, in many worlds."""

    name: str
    epochs: Range
    below: Range
    """How far the winner is below the best configuration there is."""
    above_base: Range
    near: int
    """In how many worlds it is no more than NEAR below."""


@dataclass(frozen=True)
class Rehearsal:
    """The sweep as it is written, and beside it what it saves or loses."""

    worlds: int
    algorithm: str
    """What proposed the trials that were not drawn at random; `grid` where they are listed."""
    ways: list[Rehearsed]

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "worlds": self.worlds,
            "algorithm": self.algorithm,
            "ways": [asdict(way) for way in self.ways],
        }

    def words(self) -> str:
        """A table of it."""
        rows = [("", "epochs", "below the best", "above the base", f"within {_points(NEAR)}")]
        for way in self.ways:
            spans = (way.below.shown(_points), way.above_base.shown(_points))
            rows.append((way.name, way.epochs.shown("{:.0f}".format), *spans, f"{way.near} of {self.worlds}"))
        proposed = "" if self.algorithm == "grid" else f"; proposed by {self.algorithm}"
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            [
                f"played in {self.worlds} made-up worlds, in points; there configurations differ by "
                f"{_points(SPREAD)} (standard deviation), two runs of one by {_points(RUN_NOISE)}{proposed}",
                *(
                    "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                    for row in rows
                ),
            ]
        )


def rehearse(
    sweep: Sweep, worlds: int, places: int, say: Callable[[str], None] = lambda text: None
) -> Rehearsal:
    """Play the sweep in so many worlds, with `places` trials at a time; `say` hears how far it is.

    Raises ConfigError where it has several objectives: worlds know one.
    """
    if sweep.config.objective.beside:
        raise ConfigError(f"{sweep.path}: objective: --simulate plays one objective, and this has several.")
    ways = dict(_ways(sweep))
    allowed = filter(sweep.allows, draws(sweep, DRAW_LIMIT))
    candidates = sweep.listed or list(islice(allowed, CANDIDATES))
    played: dict[str, list[_Played]] = {name: [] for name in ways}
    for seed in range(worlds):
        say(f"playing world {seed + 1} of {worlds}")
        world = World(sweep, seed, candidates)
        found = {name: _play(way, world, seed, places) for name, way in ways.items()}
        # A winner may be better than all candidates.
        best = max(world.best, *(quality for _, quality in found.values()))
        base = world.quality(sweep.base_values() or {})
        for name, (epochs, quality) in found.items():
            played[name].append(_Played(epochs, best - quality, quality - base))
    summed = [_summed(name, found) for name, found in played.items()]
    return Rehearsal(worlds, sweep.config.search.algorithm, summed)


def _ways(sweep: Sweep) -> Sequence[tuple[str, Sweep]]:
    found = [("as written", sweep)]
    if sweep.config.scheduler.type != "fifo":
        found.append(("without early stopping", _changed(sweep, scheduler={"type": "fifo"})))
    if sweep.listed is None and sweep.config.search.algorithm != "random":
        at_random = _changed(found[-1][1], search={"algorithm": "random"})
        found.append(("at random" if len(found) == 1 else "at random, without early stopping", at_random))
    return found


def _changed(sweep: Sweep, **sections: dict[str, Any]) -> Sweep:
    changed = {
        name: getattr(sweep.config, name).model_copy(update=section) for name, section in sections.items()
    }
    return replace(sweep, config=sweep.config.model_copy(update=changed))


def _play(sweep: Sweep, world: World, seed: int, places: int) -> tuple[int, float]:
    """Epochs, and the winner's quality."""
    epochs, found = 0, {}
    for step in simulate(_changed(sweep, search={"seed": seed}), world.curve, places):
        epochs = step.epochs
        found[step.trial.number] = step.trial
    winner = rank(found.values(), sweep.config.objective.metric, sweep.objective_mode)[0]
    return epochs, world.quality(winner.values)


class _Played(NamedTuple):
    epochs: int
    below: float
    above_base: float


def _summed(name: str, played: Sequence[_Played]) -> Rehearsed:
    epochs, below, above = (list(column) for column in zip(*played, strict=True))
    near = sum(lost <= NEAR for lost in below)
    return Rehearsed(name, Range.of(epochs), Range.of(below), Range.of(above), near)


def _points(value: float) -> str:
    return f"{100 * value:.1f}"
