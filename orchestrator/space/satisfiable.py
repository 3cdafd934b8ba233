"""Whether the constraints of a space leave something, and each excludes something."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from hjepa.schema import ConfigError
from orchestrator.space.distribution import conditions
from orchestrator.space.expression import ExpressionError
from orchestrator.space.space import assigned
from orchestrator.space.sweep import Sweep

DRAWS = 1000
"""Random proposals of a space that are looked at."""
LEAST = 5
"""Of these, those that have to satisfy the constraints."""
MAX_READINGS = 10_000
"""Combinations of the keys that a constraint reads which are all looked at; of more, random ones."""


class RandomTrial:
    """Draws values as an Optuna trial would under its random sampler, without Optuna."""

    def __init__(self, rng: random.Random):
        self._rng = rng

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        return self._rng.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, log: bool = False) -> int:
        """A whole number, both ends included."""
        if log:
            return min(high, max(low, round(self.suggest_float(name, low - 0.5, high + 0.5, log=True))))
        return self._rng.randint(low, high)

    def suggest_float(
        self, name: str, low: float, high: float, log: bool = False, step: float | None = None
    ) -> float:
        """A number from `low` to `high`."""
        if log:
            return min(high, max(low, math.exp(self._rng.uniform(math.log(low), math.log(high)))))
        if step is not None:
            return low + step * self._rng.randint(0, round((high - low) / step))
        return self._rng.uniform(low, high)


def draws(sweep: Sweep, count: int) -> Iterator[dict[str, Any]]:
    """Random proposals of the space, the same each time, whether the constraints allow them or not."""
    trial: Any = RandomTrial(random.Random(0))
    return (sweep.suggest(trial) for _ in range(count))


def allowed_draws(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Some proposals that the constraints allow; none where the ends of ranges tell of the space."""
    rules = sweep.rules
    simplexes = any(distribution.simplex for distribution in sweep.config.space.values())
    if rules.constraints or rules.derived or simplexes:
        allowed = filter(sweep.allows, draws(sweep, DRAWS))
        yield from islice(allowed, 100)


def check_rules(sweep: Sweep) -> None:
    """Raise ConfigError on a constraint that nothing or everything satisfies, and where all leave nothing."""
    for i, text in enumerate(sweep.rules.constraints):
        where = f"{sweep.path}: constraints[{i}]: {text}"
        keeps = excludes = 0
        part = _part(sweep, text)
        for values in _readings(part):
            try:
                held = part.rules.constraints[text].holds(part.read(values))
            except ExpressionError as error:
                raise ConfigError(f"{where}: {error}, at {assigned(values)}.") from None
            keeps, excludes = keeps + held, excludes + (not held)
            if keeps and excludes:
                break
        if not keeps:
            raise ConfigError(f"{where}: nothing in the space satisfies it (of {excludes:,} tried).")
        if not excludes:
            raise ConfigError(
                f"{where}: everything in the space satisfies it (of {keeps:,} tried); take it out."
            )
    if sweep.rules.constraints and sweep.config.search.algorithm != "grid":
        _require_findable(sweep)


def _require_findable(sweep: Sweep) -> None:
    """What the constraints leave is large enough to be found by proposing at random."""
    found = sum(map(sweep.allows, draws(sweep, DRAWS)))
    if found < LEAST:
        raise ConfigError(
            f"{sweep.path}: constraints: of {DRAWS:,} random proposals {found or 'none'} satisfy all of "
            f"them, and {LEAST} should; narrow the ranges, or write a constraint as a derived value."
        )


def _part(sweep: Sweep, text: str) -> Sweep:
    """What a constraint reads of a sweep: swept keys and those that these depend on, and derived values."""
    sources = sweep.rules.sources(sweep.rules.constraints[text].keys)
    space, derived = sweep.config.space, sweep.config.derived
    keys = sources & space.keys()
    waiting = list(keys)
    while waiting:
        parents = {parent for parent in conditions(space[waiting.pop()]) if parent in space} - keys
        keys |= parents
        waiting += parents
    return sweep.part(
        keys,
        constraints=(text,),
        derived={key: value for key, value in derived.items() if key in sources},
    )


def _readings(part: Sweep) -> Iterator[dict[str, Any]]:
    """Values of its swept keys: all combinations, or many."""
    points = {key: distribution.points for key, distribution in part.config.space.items()}
    listed = {key: values for key, values in points.items() if values is not None}
    if len(listed) == len(points) and math.prod(map(len, listed.values())) <= MAX_READINGS:
        return part.combinations(listed)
    return draws(part, MAX_READINGS // 2)
