"""Pairs of keys whose effects depend on each other."""

from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import numpy as np

from orchestrator.analysis.design import Design, Term
from orchestrator.analysis.findings import Interaction
from orchestrator.analysis.intervals import NOTHING, holm
from orchestrator.analysis.model import LEAST_FREEDOM
from orchestrator.analysis.table import Table


def interactions(table: Table, design: Design) -> tuple[Interaction, ...]:
    """Every pair of keys that the trials can tell anything of, the surest first.

    An F test at the first epoch, which nothing selected: products of the pair's columns beside all
    keys' own columns.
    """
    found = [
        pair
        for first, second in combinations(design.terms, 2)
        if (pair := _pair(table, design, first, second)) is not None
    ]
    corrected = holm([pair.p for pair in found])
    found = [replace(pair, p_holm=p) for pair, p in zip(found, corrected, strict=True)]
    return tuple(sorted(found, key=lambda pair: pair.p))


def _pair(table: Table, design: Design, first: Term, second: Term) -> Interaction | None:
    from scipy import stats

    products = [a * b for a in _straight(first).T for b in _straight(second).T]
    if not products:
        return None
    values_N = table.values_NS[:, 0]
    small = np.column_stack([np.ones(len(values_N)), design.columns_NP])
    large = np.column_stack([small, *products])
    (without, rank), (within, full) = _residual(small, values_N), _residual(large, values_N)
    freedom = len(values_N) - full
    if full == rank or freedom < LEAST_FREEDOM or within <= NOTHING * max(1.0, float(values_N @ values_N)):
        return None
    f = (without - within) / (full - rank) / (within / freedom)
    p = float(stats.f.sf(f, full - rank, freedom))
    both = sum(a is not None and b is not None for a, b in zip(first.level_N, second.level_N, strict=True))
    return Interaction((first.key, second.key), both, p, p, _cells(table, first, second))


def _straight(term: Term) -> np.ndarray:
    return term.columns_NC[:, :1] if term.kind == "range" else term.columns_NC


def _residual(matrix: np.ndarray, values_N: np.ndarray) -> tuple[float, int]:
    """Sum of squared residuals of least squares, and the rank of the matrix."""
    solution, _, rank, _ = np.linalg.lstsq(matrix, values_N, rcond=None)
    return float(np.sum((values_N - matrix @ solution) ** 2)), int(rank)


def _cells(table: Table, first: Term, second: Term) -> tuple[tuple[str, str, float, int], ...]:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for a, b, value in zip(first.level_N, second.level_N, table.values_NS[:, 0], strict=True):
        if a is not None and b is not None:
            cells[a, b].append(float(value))
    return tuple((a, b, float(np.mean(values)), len(values)) for (a, b), values in cells.items())
