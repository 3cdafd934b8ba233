"""How much of the objective's variance each key accounts for, by Optuna's evaluators."""

from typing import Any

import numpy as np

from orchestrator.analysis.design import Design, Term
from orchestrator.analysis.findings import Importance, Importances
from orchestrator.analysis.table import Table

LEAST_TRIALS = 10
MOST_TRIALS = 1000
"""Of more, so many are taken, evenly by number: with 10,000 fANOVA would take minutes."""
SEED = 0
_INACTIVE = "not active"


def importances(table: Table, design: Design) -> Importances | None:
    """At the first epoch that counts, which nothing selected; None under ten trials or without spread.

    They say how much a key mattered over the values that were tried, not which value is better, and
    have no interval.
    """
    count = len(table.values_NS)
    rows = np.linspace(0, count - 1, min(count, MOST_TRIALS)).astype(int)
    values_N = table.values_NS[rows, 0]
    if len(values_N) < LEAST_TRIALS or np.ptp(values_N) == 0:
        return None
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, MeanDecreaseImpurityImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {t.key: _distribution(t) for t in design.terms}
    for row, value in zip(rows.tolist(), values_N, strict=True):
        params = {t.key: _param(t, row) for t in design.terms}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=float(value))
        )
    fanova = FanovaImportanceEvaluator(seed=SEED).evaluate(study)
    impurity = MeanDecreaseImpurityImportanceEvaluator(seed=SEED).evaluate(study)
    keys = [
        Importance(term.key, float(fanova.get(term.key, 0.0)), float(impurity.get(term.key, 0.0)))
        for term in design.terms
    ]
    keys.sort(key=lambda importance: importance.fanova, reverse=True)
    return Importances(table.epochs[0], len(values_N), tuple(keys))


def _distribution(term: Term) -> Any:
    """Ranges as they are; where a key may be inactive, that is one more choice."""
    import optuna

    if _is_number(term):
        places_N = term.columns_NC[:, 0]
        low, high = float(places_N.min()), float(places_N.max())
        return optuna.distributions.FloatDistribution(low, high)
    names = sorted({_name(level) for level in term.level_N})
    return optuna.distributions.CategoricalDistribution(names)


def _param(term: Term, row: int) -> Any:
    return float(term.columns_NC[row, 0]) if _is_number(term) else _name(term.level_N[row])


def _is_number(term: Term) -> bool:
    return term.kind == "range" and None not in term.level_N


def _name(level: str | None) -> str:
    return _INACTIVE if level is None else level
