"""What can be checked by hand: means by value, and differences among trials that share the other choices."""

import math
from collections import defaultdict

import numpy as np

from orchestrator.analysis.design import CHOICES, Design, Term
from orchestrator.analysis.findings import Estimate
from orchestrator.analysis.intervals import CONFIDENCE, NOTHING, interval
from orchestrator.analysis.table import Table
from orchestrator.space.distribution import conditions


def level_mean(term: Term, level: str, values_N: np.ndarray) -> Estimate | None:
    """Mean of a level's trials; None under two and without spread."""
    own = [float(v) for v, name in zip(values_N, term.level_N, strict=True) if name == level]
    return interval(own) if len(own) > 1 else None


def stratified(table: Table, design: Design, term: Term) -> dict[str, Estimate]:
    """By level, the mean difference from the reference within strata of trials that share the other
    choices; ranges, and keys that hang on this one, make no strata.

    Strata weigh as the precision of their difference, their spread is taken to be one and the same.
    """
    strata_N = _strata(table, design, term)
    return {
        level: found
        for level in term.levels
        if level != term.reference and (found := _difference(table, term, level, strata_N)) is not None
    }


def _strata(table: Table, design: Design, term: Term) -> list[tuple[str | None, ...]]:
    space = table.sweep.config.space
    hanging = {term.key}
    for key in space:  # a key stands after those that it hangs on
        if hanging & conditions(space[key]).keys():
            hanging.add(key)
    others = [t for t in design.terms if t.key not in hanging and space[t.key].kind in CHOICES]
    return [tuple(other.level_N[row] for other in others) for row in range(len(table.records))]


def _difference(
    table: Table, term: Term, level: str, strata_N: list[tuple[str | None, ...]]
) -> Estimate | None:
    from scipy import stats

    groups: dict[tuple[str | None, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, stratum in enumerate(strata_N):
        if (own := term.level_N[row]) in (level, term.reference):
            groups[stratum][str(own)].append(float(table.values_NS[row, 0]))
    both = [(group[level], group[term.reference]) for group in groups.values() if len(group) == 2]
    if not both:
        return None
    count = sum(len(ours) + len(theirs) for ours, theirs in both)
    freedom = count - 2 * len(both)
    if freedom < 1:
        return None
    weights = np.array([len(a) * len(b) / (len(a) + len(b)) for a, b in both])
    gains = np.array([np.mean(a) - np.mean(b) for a, b in both])
    within = sum(float(np.sum((np.array(side) - np.mean(side)) ** 2)) for pair in both for side in pair)
    if within <= NOTHING:
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(within / freedom / weights.sum())
    gain = float(weights @ gains / weights.sum())
    return Estimate(gain, gain - half, gain + half, count)
