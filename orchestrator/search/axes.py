"""Optuna's parameters as coordinates in which near values are alike, for a model over them."""

import json
import math
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

ABSENT = 0.5
"""Coordinate of a parameter that a trial does not have, beside the one that says so."""


class Axis:
    """One parameter: its values as points of [0, 1], or of a simplex where they have no order."""

    def __init__(self, distribution: BaseDistribution):
        self._distribution = distribution
        if isinstance(distribution, CategoricalDistribution):
            choices = [str(choice) for choice in distribution.choices]
            order = _order(choices)
            self._places = {choice: float(order.index(choice)) for choice in choices} if order else None
            self._choices = order or choices

    @property
    def width(self) -> int:
        """Coordinates that a value takes."""
        return 1 if self._ranges or self._places is not None else len(self._choices)

    @property
    def _ranges(self) -> bool:
        return not isinstance(self._distribution, CategoricalDistribution)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Of the range in which values are uniform."""
        d = self._distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = float(d.low), float(d.high)
        if isinstance(d, IntDistribution):
            low, high = low - 0.5, high + 0.5
        return (math.log(low), math.log(high)) if d.log else (low, high)

    def at(self, value: Any) -> list[float]:
        """The coordinates of a value."""
        if self._ranges:
            return [self._unit(value)]
        if self._places is not None:
            return [self._places[str(value)] / max(1, len(self._choices) - 1)]
        # Two choices are as far apart as the two ends of a range.
        return [math.sqrt(0.5) * (choice == str(value)) for choice in self._choices]

    def draw(self, rng: np.random.Generator) -> Any:
        """A value of the whole."""
        if self._ranges:
            return self._value(rng.random())
        return self._choices[rng.integers(len(self._choices))]

    def near(self, value: Any, share: float, rng: np.random.Generator) -> Any:
        """A value about `share` of the range from `value`; of choices at times the next one, or any."""
        if self._ranges:
            return self._value(min(1.0, max(0.0, self._unit(value) + share * rng.normal())))
        if rng.random() >= max(share, 1 / 8):
            return str(value)
        if self._places is None:
            return self.draw(rng)
        place = int(self._places[str(value)]) + (1 if rng.random() < 0.5 else -1)
        return self._choices[min(len(self._choices) - 1, max(0, place))]

    def _unit(self, value: Any) -> float:
        d = self._distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = self._ends
        there = math.log(value) if d.log else float(value)
        return (there - low) / (high - low) if high > low else 0.0

    def _value(self, unit: float) -> Any:
        d = self._distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        low, high = self._ends
        there = low + unit * (high - low)
        number = math.exp(there) if d.log else there
        if isinstance(d, IntDistribution):
            return int(min(d.high, max(d.low, round(number))))
        if d.step is not None:
            number = d.low + d.step * round((number - d.low) / d.step)
        return min(d.high, max(d.low, number))


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


class Axes:
    """All parameters of a search; a trial that lacks some is further from those that have them."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], conditional: Container[str]):
        """`conditional` are the keys that not every trial has; of a list, such as `key[1]`, its key."""
        self._axes = {name: Axis(distributions[name]) for name in sorted(distributions)}
        self._conditional = [name for name in self._axes if name.partition("[")[0] in conditional]

    def __getitem__(self, name: str) -> Axis:
        return self._axes[name]

    def at(self, trials: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Points, one for each trial's parameters: the values, then which conditional ones are there."""
        rows = [
            [x for name, axis in self._axes.items() for x in _at(axis, trial, name)]
            + [float(name in trial) for name in self._conditional]
            for trial in trials
        ]
        return np.array(rows)


def _at(axis: Axis, trial: Mapping[str, Any], name: str) -> list[float]:
    return axis.at(trial[name]) if name in trial else [ABSENT] * axis.width
