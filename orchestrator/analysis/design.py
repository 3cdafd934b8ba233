"""Swept values as columns of a linear model.

A key under a `when:` has columns of 0 where it is not active. So its effect is told from the trials in
which it is, and the effect of the key that it hangs on is that at its own reference.

A choice that determines another one, as a list of weights does the number of levels, stands within it: its
values are compared with the mean of those that leave the other one as it is, and the other's values by these
means.
"""

import math
from bisect import bisect_left
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
MOST_POINTS = 5
"""Values of a range all of which are told; of more, those at its quarters."""
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
    within: tuple[str, ...] = ()
    """Keys that it determines."""


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
    terms = [_term(sweep, records, key, False) for key in sweep.config.space]
    nested = {
        term.key: _within(term, around) for term in terms if (around := _around(sweep, records, term, terms))
    }
    straight = Design([nested.get(term.key, term) for term in terms])
    bends = [_term(sweep, records, key, _bends(records, key)) for key in sweep.config.space]
    bent = Design([nested.get(term.key, term) for term in bends])
    enough = len(records) >= TRIALS_PER_COLUMN * (1 + bent.columns_NP.shape[1])
    return bent if enough else straight


def _around(sweep: Sweep, records: Sequence[TrialRecord], term: Term, terms: list[Term]) -> list[Term]:
    """The choices that `term` determines; of two that do so to each other, the later one does the earlier."""
    place = terms.index(term)
    return [
        other
        for number, other in enumerate(terms)
        if other is not term
        and _determines(sweep, records, term, other)
        and (number < place or not _determines(sweep, records, other, term))
    ]


def _determines(sweep: Sweep, records: Sequence[TrialRecord], term: Term, other: Term) -> bool:
    """Whether each value of `term` comes with one of `other`, and may come with no other that was tried."""
    if {term.kind, other.kind} != {"choice"} or None in (*term.level_N, *other.level_N):
        return False
    fixed: dict[str | None, str | None] = {}
    pairs = zip(term.level_N, other.level_N, strict=True)
    if any(fixed.setdefault(own, theirs) != theirs for own, theirs in pairs) or len(set(fixed.values())) < 2:
        return False
    one_of_each = dict(zip(term.level_N, records, strict=True)).values()
    tried = {label(record.values[other.key]): record.values[other.key] for record in records}
    return all(
        sweep.refused({**record.values, other.key: value}) is not None
        for record in one_of_each
        for name, value in tried.items()
        if name != label(record.values[other.key])
    )


def _within(term: Term, around: list[Term]) -> Term:
    """The same, each value compared with the mean of those that share its values of the keys `around`."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for row, name in sorted(enumerate(term.level_N), key=lambda pair: list(term.levels).index(str(pair[1]))):
        group = groups.setdefault(tuple(other.level_N[row] for other in around), [])
        group += [str(name)] * (name not in group)
    size, start = sum(len(group) - 1 for group in groups.values()), 0
    levels = dict.fromkeys(term.levels, np.full(size, np.nan))
    for group in groups.values():
        own = slice(start, start + len(group) - 1)
        for number, name in enumerate(group):
            levels[name] = np.zeros(size)
            # Together they are 0, so the last is what the others are not.
            levels[name][own] = np.eye(len(group) - 1)[number] if number < len(group) - 1 else -1
        start = own.stop
    keys = tuple(other.key for other in around)
    columns_NC = np.array([levels[str(name)] for name in term.level_N]).reshape(len(term.level_N), size)
    reference = f"the mean of those with the same {' and '.join(keys)}"
    return replace(term, reference=reference, columns_NC=columns_NC, levels=levels, within=keys)


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
    middle, half = (low + high) / 2, (high - low) / 2 or 1.0  # of a range of one value

    def place(value: float) -> float:
        return (_scaled(distribution, value) - middle) / half

    def basis(at: float) -> np.ndarray:
        return np.array([at, at * at] if bent else [at])

    every = distribution.points
    if every is not None and len(every) <= MOST_POINTS:
        points = [float(point) for point in every]
    else:
        points = [_value(distribution, middle + half * at) for at in _POINTS]
    # As many digits as tell them apart, four or more: momenta between 0.9999 and 1 would all be 1.
    digits = next(d for d in range(4, 18) if len({f"{p:.{d}g}" for p in points}) == len(set(points)))
    reference = own if own is not None else points[len(points) // 2]
    points = sorted({f"{point:.{digits}g}": point for point in [*points, reference]}.values())
    levels = {f"{point:.{digits}g}": basis(place(point)) - basis(place(reference)) for point in points}
    centre = basis(place(reference))
    rows = [np.zeros_like(centre) if v is None else basis(place(v)) - centre for v in values_N]
    nearest = [
        None if v is None else f"{min(points, key=lambda p: abs(place(p) - place(v))):.{digits}g}"
        for v in values_N
    ]
    unit = "decade" if distribution.kind in LOGARITHMIC else "unit"
    slope_C = np.array([1 / half, 0.0] if bent else [1 / half])  # a parabola's mean slope is its middle's
    columns_NC = np.array(rows).reshape(len(values_N), len(centre))
    return Term(key, "range", f"{reference:.{digits}g}", columns_NC, levels, nearest, slope_C, unit, not bent)


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
    if points is None:
        return value
    place = bisect_left(points, value)  # of billions of seeds, say
    return float(min(points[max(0, place - 1) : place + 1], key=lambda point: abs(point - value)))
