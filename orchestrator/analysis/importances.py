"""How much of the objective's variance each key accounts for, by Optuna's evaluators.

A key under a `when:` is judged among the trials in which it is active. Were it judged among all, "not active"
would be one more value of it, and it would be given the share of the key above it.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.analysis.design import Design, Term
from orchestrator.analysis.findings import Importance, Importances
from orchestrator.analysis.table import Table

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 10
MOST_TRIALS = 1000
"""Of more, so many are taken, evenly by number: with 10,000 the forests would take minutes."""
PERMUTATIONS = 19
"""Shuffles of the objective: the largest share that any key gets in them is passed by chance in one sweep
of 20 in which no key does anything."""
FOREST = {"n_trees": 16, "max_depth": 5, "seed": 0}
"""Trees without a limit learn the noise by heart, and take ten times the time."""


@dataclass(frozen=True)
class _Group:
    """Keys that are active in the same trials, judged among those."""

    own: dict[str, list[str]]
    """Each key's parameters in `study`."""
    study: "Study"
    """What these trials had of all keys that are active in all of them: the others take their own shares."""
    values_M: np.ndarray
    weight: float
    """Share of the whole variance that lies among these trials."""


def importances(table: Table, design: Design) -> Importances | None:
    """At the first epoch that counts, which nothing selected; None under ten trials or without spread.

    They say how much a key mattered over the values that were tried, not which value is better, and
    have no interval, but a floor that noise seldom passes. Keys active in under ten trials are left out.
    """
    count = len(table.values_NS)
    rows_N = np.linspace(0, count - 1, min(count, MOST_TRIALS)).astype(int)
    values_N = table.values_NS[rows_N, 0]
    if len(values_N) < LEAST_TRIALS or np.ptp(values_N) == 0:
        return None
    groups = list(_groups(design.terms, rows_N, values_N))
    found = {key: pair for group in groups for key, pair in _shares(group, group.values_M).items()}
    rng = np.random.default_rng(0)
    shuffled = [
        pair
        for _ in range(PERMUTATIONS)
        for group in groups
        for pair in _shares(group, rng.permutation(group.values_M)).values()
    ]
    floors = np.max(shuffled, axis=0) if shuffled else np.zeros(2)
    keys = sorted((Importance(key, *pair) for key, pair in found.items()), key=lambda key: -key.fanova)
    return Importances(table.epochs[0], len(values_N), tuple(keys), float(floors[0]), float(floors[1]))


def _groups(terms: list[Term], rows_N: np.ndarray, values_N: np.ndarray) -> Iterator[_Group]:
    active = {t.key: np.array([t.level_N[row] is not None for row in rows_N], dtype=bool) for t in terms}
    alike: dict[bytes, list[Term]] = defaultdict(list)
    for term in terms:
        alike[active[term.key].tobytes()].append(term)
    whole = float(np.sum((values_N - values_N.mean()) ** 2))
    for own in alike.values():
        among_N = active[own[0].key]
        values_M = values_N[among_N]
        if len(values_M) >= LEAST_TRIALS and np.ptp(values_M) > 0:
            there = [term for term in terms if active[term.key][among_N].all()]
            weight = float(np.sum((values_M - values_M.mean()) ** 2)) / whole
            params = {term.key: _params(term, rows_N[among_N]) for term in there}
            names = {term.key: list(params[term.key]) for term in own}
            study = _study({name: found_M for each in params.values() for name, found_M in each.items()})
            # Trees take a spread below 1e-8 for none, and without any spread there is an error.
            usual = float(np.subtract(*np.quantile(values_M, [0.75, 0.25]))) or float(values_M.std())
            yield _Group(names, study, (values_M - np.median(values_M)) / usual, weight)


def _shares(group: _Group, values_M: np.ndarray) -> dict[str, tuple[float, float]]:
    """Of each of the group's own keys the share of the whole variance, by fANOVA and by impurity."""
    from optuna.importance import FanovaImportanceEvaluator, MeanDecreaseImpurityImportanceEvaluator

    def value(trial: "FrozenTrial") -> float:
        return float(values_M[trial.number])

    fanova = FanovaImportanceEvaluator(**FOREST).evaluate(group.study, target=value)
    impurity = MeanDecreaseImpurityImportanceEvaluator(**FOREST).evaluate(group.study, target=value)
    return {
        key: (
            group.weight * sum(float(fanova.get(name, 0.0)) for name in names),
            group.weight * sum(float(impurity.get(name, 0.0)) for name in names),
        )
        for key, names in group.own.items()
    }


def _study(params: dict[str, list[Any]]) -> "Study":
    """A study whose trial m has the m-th of each parameter's values."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    distributions = {name: _distribution(found_M) for name, found_M in params.items()}
    for values in zip(*params.values(), strict=True):
        own = dict(zip(params, values, strict=True))
        study.add_trial(optuna.trial.create_trial(params=own, distributions=distributions, value=0.0))
    return study


def _params(term: Term, rows_M: np.ndarray) -> dict[str, list[Any]]:
    """A term's values by parameter; each of a list of weights is one, the last among them."""
    columns_MC = term.columns_NC[rows_M]
    varied = columns_MC.shape[1] > 0
    if term.kind == "range" and varied:
        return {term.key: columns_MC[:, 0].tolist()}
    if term.kind == "weights" and varied:
        weights_MC = np.column_stack([columns_MC, -columns_MC.sum(axis=1)])
        return {f"{term.key}[{i}]": weight_M.tolist() for i, weight_M in enumerate(weights_MC.T)}
    return {term.key: [str(term.level_N[row]) for row in rows_M]}


def _distribution(values_M: list[Any]) -> Any:
    import optuna

    if isinstance(values_M[0], float):
        return optuna.distributions.FloatDistribution(min(values_M), max(values_M))
    return optuna.distributions.CategoricalDistribution(sorted(set(values_M)))
