"""Did early stopping mislead? How the rungs rank the trials beside the end, and what was given up."""

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.analysis.findings import Estimate, RungAgreement, Stopping
from orchestrator.analysis.model import DRAWS, LEAST_FREEDOM, SEED
from orchestrator.analysis.table import Table

LEAST_PAIRS = 4
LEAST_FINISHED = 2 + LEAST_FREEDOM
"""Trials that a line to the end is fitted to, at the least."""


def stopping(table: Table, audited_N: Sequence[bool]) -> Stopping | None:
    """None where nothing is stopped early. `audited_N`: the trials that were let live whatever their rank."""
    if len(table.epochs) < 2:
        return None
    finished_N = table.reached_NS[:, -1] & np.array(
        [record.outcome == "completed" for record in table.records], dtype=bool
    )
    tested_N = finished_N & np.array(audited_N, dtype=bool)
    rungs = [
        RungAgreement(
            epoch,
            spearman(table.values_NS[finished_N][:, [stage, -1]]),
            spearman(table.values_NS[tested_N][:, [stage, -1]]),
        )
        for stage, epoch in enumerate(table.epochs[:-1])
    ]
    return Stopping(
        rungs=tuple(rungs),
        stopped=sum(record.outcome == "pruned" for record in table.records),
        completed=int(finished_N.sum()),
        audited=int(tested_N.sum()),
        audited_would_stop=sum(_weak(table, int(row)) for row in np.flatnonzero(tested_N)),
        regret=_regret(table, finished_N),
    )


def spearman(pairs_N2: np.ndarray) -> Estimate | None:
    """Spearman's rank correlation, its interval by Fisher's z with the variance of Bonett & Wright 2000."""
    if len(pairs_N2) < LEAST_PAIRS or (np.ptp(pairs_N2, axis=0) == 0).any():
        return None
    from scipy import stats

    rung_N, end_N = (stats.rankdata(side) for side in pairs_N2.T)
    rho = float(np.corrcoef(rung_N, end_N)[0, 1])
    middle = math.atanh(max(-0.999999, min(0.999999, rho)))
    half = 1.96 * math.sqrt((1 + rho * rho / 2) / (len(pairs_N2) - 3))
    low, high = min(rho, math.tanh(middle - half)), max(rho, math.tanh(middle + half))
    return Estimate(rho, low, high, len(pairs_N2))


def _weak(table: Table, row: int) -> bool:
    """Whether a trial was below the best 1/reduction_factor of some rung, as it stands in the end."""
    better_NS = _signed(table) > _signed(table)[row]
    places = np.floor(table.reached_NS.sum(axis=0) / table.sweep.config.scheduler.reduction_factor)
    return bool((better_NS.sum(axis=0) >= np.maximum(1, places))[:-1].any())


def _signed(table: Table) -> np.ndarray:
    return table.values_NS * (1 if table.sweep.objective_mode == "max" else -1)


def _regret(table: Table, finished_N: np.ndarray) -> Estimate | None:
    """How far the best stopped trial would have come above the best one.

    The end is predicted by a line through the last rung that a stopped trial reached, fitted to the
    trials that came to their end, with the uncertainty of the line and of each prediction.
    """
    values_NS, rng = _signed(table), np.random.default_rng(SEED)
    stopped_N = np.array([record.outcome == "pruned" for record in table.records], dtype=bool)
    if finished_N.sum() < LEAST_FINISHED or not stopped_N.any():
        return None
    last_N = table.reached_NS.sum(axis=1) - 1
    best_D = np.full(DRAWS, -np.inf)
    for stage in range(len(table.epochs) - 1):
        rows_N = stopped_N & (last_N == stage)
        if rows_N.any() and np.ptp(values_NS[finished_N, stage]) > 0:
            ends_MD = _predicted(
                values_NS[finished_N, stage], values_NS[finished_N, -1], values_NS[rows_N, stage], rng
            )
            best_D = np.maximum(best_D, ends_MD.max(axis=0))
    gain_D = np.maximum(0.0, best_D - values_NS[finished_N, -1].max())
    # Not the mean: few trials leave wide tails, of which the best of all stopped ones takes the end.
    low, middle, high = np.quantile(gain_D, [0.025, 0.5, 0.975])
    return Estimate(float(middle), float(low), float(high), int(finished_N.sum()))


def _predicted(
    rung_N: np.ndarray, end_N: np.ndarray, asked_M: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draws of the end of each trial asked for, (M, draws)."""
    middle, freedom = rung_N.mean(), len(rung_N) - 2
    spread = float(np.sum((rung_N - middle) ** 2))
    slope = float(np.sum((rung_N - middle) * end_N)) / spread
    residual = float(np.sum((end_N - end_N.mean() - slope * (rung_N - middle)) ** 2))
    sigma_D = np.sqrt(residual / rng.chisquare(freedom, DRAWS))
    slope_D = slope + sigma_D * rng.standard_normal(DRAWS) / math.sqrt(spread)
    centre_D = end_N.mean() + sigma_D * rng.standard_normal(DRAWS) / math.sqrt(len(rung_N))
    noise_MD = sigma_D * rng.standard_normal((len(asked_M), DRAWS))
    return centre_D + slope_D * (asked_M[:, None] - middle) + noise_MD
