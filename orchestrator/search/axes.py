"""Optuna's parameters as coordinates in which near values are alike, for a model over them.

Shape letters: N trials, W coordinates of a parameter, P of a trial.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from orchestrator.space.distribution import conditions, label
from orchestrator.space.simplex import key_of

if TYPE_CHECKING:
    from orchestrator.space import Sweep

Array = NDArray[np.float64]

ABSENT = 0.5
"""Coordinate of a parameter that a trial does not have, beside the one that says so."""
LEAST_CHANGE = 1 / 8
"""Chance that a choice near another one is another, at least."""


class Axis:
    """One parameter. A value's code is its place in a range, from 0 to 1, or its number among the choices."""

    def __init__(self, distribution: BaseDistribution):
        self._distribution = distribution
        self._choices: list[str] = []
        if isinstance(distribution, CategoricalDistribution):
            choices = [str(choice) for choice in distribution.choices]
            order = _order(choices)
            self._is_ordered, self._choices = order is not None, order or choices

    @property
    def width(self) -> int:
        """Coordinates that a value takes."""
        return len(self._choices) if self._choices and not self._is_ordered else 1

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Codes of random values."""
        if self._choices:
            return rng.integers(len(self._choices), size=count).astype(np.float64)
        return self._snapped(rng.random(count))

    def near(self, codes_N: Array, shares_N: Array, rng: np.random.Generator) -> Array:
        """Codes about `shares_N` of the range from those given; of choices with that chance another one, the
        next where they have an order."""
        if not self._choices:
            return self._snapped(np.clip(codes_N + shares_N * rng.normal(size=len(codes_N)), 0, 1))
        others_N = self.draw(len(codes_N), rng)
        if self._is_ordered:
            steps_N = codes_N + rng.choice([-1, 1], size=len(codes_N))
            others_N = np.clip(steps_N, 0, len(self._choices) - 1)
        return np.where(rng.random(len(codes_N)) < np.maximum(shares_N, LEAST_CHANGE), others_N, codes_N)

    def points(self, codes_N: Array) -> Array:
        """Coordinates, N x W."""
        if not self._choices:
            return codes_N[:, None]
        if self._is_ordered:
            return codes_N[:, None] / max(1, len(self._choices) - 1)
        # Two choices are as far apart as the two ends of a range.
        return math.sqrt(0.5) * (codes_N[:, None] == np.arange(len(self._choices)))

    def code(self, value: Any) -> float:
        """The code of a value."""
        if self._choices:
            return float(self._choices.index(str(value)))
        low, high = self._ends
        there = math.log(value) if self._log else float(value)
        return (there - low) / (high - low) if high > low else 0.0

    def value(self, code: float) -> Any:
        """The value of a code."""
        d = self._distribution
        if self._choices:
            return self._choices[int(code)]
        number = float(self._numbers(np.array([code]))[0])
        return int(number) if isinstance(d, IntDistribution) else number

    @property
    def _log(self) -> bool:
        return isinstance(self._distribution, FloatDistribution | IntDistribution) and self._distribution.log

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Of the range in which values are uniform."""
        d = self._distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = float(d.low), float(d.high)
        if isinstance(d, IntDistribution):
            low, high = low - 0.5, high + 0.5
        return (math.log(low), math.log(high)) if d.log else (low, high)

    def _numbers(self, codes_N: Array) -> Array:
        d = self._distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = self._ends
        there_N = low + codes_N * (high - low)
        numbers_N = np.exp(there_N) if d.log else there_N
        if isinstance(d, IntDistribution):
            numbers_N = np.rint(numbers_N)
        elif d.step is not None:
            numbers_N = d.low + d.step * np.rint((numbers_N - d.low) / d.step)
        return np.clip(numbers_N, d.low, d.high)

    def _snapped(self, codes_N: Array) -> Array:
        """The codes of the values that these are nearest to."""
        numbers_N, (low, high) = self._numbers(codes_N), self._ends
        there_N = np.log(numbers_N) if self._log else numbers_N
        return (there_N - low) / (high - low) if high > low else np.zeros(len(codes_N))


def _order(choices: Sequence[str]) -> list[str] | None:
    """Choices in ascending order where all are numbers, or two at the most; None: they have none."""
    if len(choices) <= 2:
        return list(choices)
    try:
        numbers = [json.loads(choice) for choice in choices]
    except json.JSONDecodeError:
        return None
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return None
    return [choice for _, choice in sorted(zip(numbers, choices, strict=True))]


Codes = dict[str, Array]
"""Of N trials, by parameter; NaN where a trial does not have it."""


class Axes:
    """All parameters of a sweep; a trial that lacks some is further from those that have them."""

    def __init__(self, sweep: "Sweep"):
        self._space = sweep.config.space
        asked = _Asked({})
        for key, distribution in self._space.items():
            distribution.suggest(asked, key)
        self._axes = {name: Axis(distribution) for name, distribution in asked.distributions.items()}

    def codes(self, trials: Sequence[Mapping[str, Any]]) -> Codes:
        """Of trials' parameters."""
        return {
            name: np.array([axis.code(trial[name]) if name in trial else math.nan for trial in trials])
            for name, axis in self._axes.items()
        }

    def anywhere(self, count: int, rng: np.random.Generator) -> Codes:
        """Random trials; those that break a constraint are among them."""
        return self._allowed({name: axis.draw(count, rng) for name, axis in self._axes.items()})

    def near(self, parents: Codes, kept: float, shares_N: Array, rng: np.random.Generator) -> Codes:
        """Trials near others, one of each: a parameter stays with chance `kept`, or goes `shares_N` of its
        range away."""
        found = {}
        for name, axis in self._axes.items():
            moved_N = axis.near(parents[name], shares_N, rng)
            codes_N = np.where(rng.random(len(shares_N)) < kept, parents[name], moved_N)
            found[name] = np.where(np.isnan(codes_N), axis.draw(len(shares_N), rng), codes_N)
        return self._allowed(found)

    def points(self, codes: Codes) -> Array:
        """Coordinates, N x P: the values, then which of the keys that not every trial has are there."""
        columns = []
        for name, axis in self._axes.items():
            absent_N = np.isnan(codes[name])
            columns.append(
                np.where(absent_N[:, None], ABSENT, axis.points(np.where(absent_N, 0, codes[name])))
            )
        conditional = [name for name in self._axes if self._space[key_of(name)].when]
        columns += [1.0 - np.isnan(codes[name])[:, None] for name in conditional]
        return np.hstack(columns)

    def params(self, codes: Codes, row: int) -> dict[str, Any]:
        """Optuna's parameters of one of the trials."""
        return {
            name: axis.value(codes[name][row])
            for name, axis in self._axes.items()
            if not math.isnan(codes[name][row])
        }

    def _allowed(self, codes: Codes) -> Codes:
        """Without the parameters whose key does not vary, given the others."""
        for name in self._axes:
            for parent, allowed in conditions(self._space[key_of(name)]).items():
                if parent in self._axes:
                    axis, labels = self._axes[parent], set(map(label, allowed))
                    different_K, at_N = np.unique(codes[parent], return_inverse=True)
                    holds_K = [
                        not math.isnan(c) and label(axis.value(c)) in labels for c in different_K.tolist()
                    ]
                    codes[name] = np.where(np.array(holds_K)[at_N], codes[name], math.nan)
        return codes


class _Asked(FixedTrial):
    """What is asked of it, answered with any value."""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        self._distributions[name] = distribution
        return Axis(distribution).value(0.0)
