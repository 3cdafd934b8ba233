"""Swept values as columns of a linear model.

A key under a `when:` has columns of 0 where it is not active. So its effect is told from the trials in
which it is, and the effect of the key that it hangs on is that at its own reference.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator.space import Distribution, Sweep
from orchestrator.space.distribution import label
from orchestrator.space.keys import value_at
from orchestrator.study.record import TrialRecord

LOGARITHMIC = ("loguniform", "lograndint")
CHOICES = ("choice", "grid_search")
TRIALS_PER_COLUMN = 3
"""So many trials for each column there must be, for ranges to be bent. It leaves two thirds of the trials
for the noise, and t intervals reckon with how few those are."""
_POINTS = (-0.5, 0.0, 0.5)


@dataclass(frozen=True)
class Term:
    """A key's columns, and what of them makes each level."""

    key: str
    kind: str
    """choice, range or weights."""
    reference: str
    columns_NC: np.ndarray
    levels: dict[str, np.ndarray]
    """By label the C numbers whose product with the columns' coefficients is the level's effect."""
    level_N: list[str | None]
    """Each trial's level, of a range the nearest one; None where the key is not active."""
    slope_C: np.ndarray | None = None
    """The same for the mean slope of a range."""
    unit: str | None = None
    """What the slope is per."""
    straight: bool = False
    """Of a range: a straight line, which shows no hump."""


@dataclass(frozen=True)
class Design:
    """The terms of all keys, and their columns side by side."""

    terms: list[Term]

    @cached_property
    def columns_NP(self) -> np.ndarray:
        """All columns."""
        return np.hstack([term.columns_NC for term in self.terms])

    def place(self, term: Term) -> slice:
        """Where the columns of `term` stand."""
        start = sum(other.columns_NC.shape[1] for other in self.terms[: self.terms.index(term)])
        return slice(start, start + term.columns_NC.shape[1])


def design_of(sweep: Sweep, records: Sequence[TrialRecord]) -> Design:
    """The columns of these trials; ranges are straight lines, bent ones where there are trials enough.

    Enough of all trials for all columns, and of those with the key for its own two; three values at least.
    """
    straight = Design([_term(sweep, records, key, False) for key in sweep.config.space])
    bent = Design([_term(sweep, records, key, _bends(records, key)) for key in sweep.config.space])
    enough = len(records) >= TRIALS_PER_COLUMN * (1 + bent.columns_NP.shape[1])
    return bent if enough else straight


def _bends(records: Sequence[TrialRecord], key: str) -> bool:
    values = [record.values[key] for record in records if isinstance(record.values.get(key), int | float)]
    return len(set(values)) >= 3 and len(values) >= TRIALS_PER_COLUMN * (1 + 2)


def _term(sweep: Sweep, records: Sequence[TrialRecord], key: str, bent: bool) -> Term:
    distribution = sweep.config.space[key]
    values_N = [record.values.get(key) for record in records]
    active_N = [key in record.values for record in records]
    own = value_at(sweep.base_data, key)
    own = own if own in distribution else None
    if distribution.kind in CHOICES:
        return _choice(key, distribution, values_N, active_N, own)
    if distribution.simplex:
        term = _weights(key, distribution.simplex, values_N)
    else:
        term = _range(key, distribution, values_N, own, bent)
    first = next((value for value in values_N if value is not None), None)
    return term if any(value not in (None, first) for value in values_N) else _unvaried(term)


def _choice(
    key: str, distribution: Distribution, values_N: Sequence[Any], active_N: Sequence[bool], own: Any
) -> Term:
    level_N = [label(v) if active else None for v, active in zip(values_N, active_N, strict=True)]
    counts = Counter(level for level in level_N if level is not None)
    order = [label(value) for value in distribution.arguments]
    usual = max(order, key=lambda name: counts[name])
    reference = label(own) if label(own) in counts else usual
    columns = [name for name in order if name != reference and counts[name]]
    levels = {name: np.array([float(name == column) for column in columns]) for name in order}
    for name in order:
        if name != reference and not counts[name]:
            levels[name] = np.full(len(columns), np.nan)  # nobody tried it
    columns_NC = np.array([[float(level == column) for column in columns] for level in level_N])
    columns_NC = columns_NC.reshape(len(values_N), len(columns))
    return Term(key, "choice", reference, columns_NC, levels, level_N)


def _range(key: str, distribution: Distribution, values_N: Sequence[Any], own: Any, bent: bool) -> Term:
    low, high = (_scaled(distribution, end) for end in _ends(distribution))
    middle, half = (low + high) / 2, (high - low) / 2

    def place(value: float) -> float:
        return (_scaled(distribution, value) - middle) / half

    def basis(at: float) -> np.ndarray:
        return np.array([at, at * at] if bent else [at])

    points = [_value(distribution, middle + half * at) for at in _POINTS]
    reference = own if own is not None else points[1]
    points = sorted({f"{point:.4g}": point for point in [*points, reference]}.values())
    levels = {f"{point:.4g}": basis(place(point)) - basis(place(reference)) for point in points}
    centre = basis(place(reference))
    rows = [np.zeros_like(centre) if v is None else basis(place(v)) - centre for v in values_N]
    nearest = [
        None if v is None else f"{min(points, key=lambda p: abs(place(p) - place(v))):.4g}" for v in values_N
    ]
    unit = "decade" if distribution.kind in LOGARITHMIC else "unit"
    slope_C = np.array([1 / half, 0.0] if bent else [1 / half])  # a parabola's mean slope is its middle's
    columns_NC = np.array(rows).reshape(len(values_N), len(centre))
    return Term(key, "range", f"{reference:.4g}", columns_NC, levels, nearest, slope_C, unit, not bent)


def _weights(key: str, size: int, values_N: Sequence[Any]) -> Term:
    """A list of weights that sum up to 1: all but the last, so that the others are without its effect."""
    rows = [[0.0] * (size - 1) if v is None else [float(w) - 1 / size for w in v[:-1]] for v in values_N]
    level_N = [None if v is None else "any" for v in values_N]
    return Term(key, "weights", "equal", np.array(rows).reshape(len(values_N), size - 1), {}, level_N)


def _unvaried(term: Term) -> Term:
    """Without columns, since no two values were tried: they would say what the key above it says, and nothing
    could be told of either."""
    levels = dict.fromkeys(term.levels, np.zeros(0))
    return replace(
        term, columns_NC=term.columns_NC[:, :0], levels=levels, slope_C=None, unit=None, straight=False
    )


def _ends(distribution: Distribution) -> tuple[float, float]:
    points = distribution.points
    low, high = distribution.arguments[:2] if points is None else (points[0], points[-1])
    return float(low), float(high)


def _scaled(distribution: Distribution, value: float) -> float:
    return math.log10(value) if distribution.kind in LOGARITHMIC else float(value)


def _value(distribution: Distribution, scaled: float) -> float:
    """The value of the range that is next to a scaled one."""
    value = 10**scaled if distribution.kind in LOGARITHMIC else scaled
    points = distribution.points
    return value if points is None else float(min(points, key=lambda point: abs(point - value)))
