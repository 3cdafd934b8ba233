"""Effects at a late epoch, from trials many of which were stopped before it.

Whether ASHA stops a trial depends on what it reported at rungs and on nothing else, so what a stopped
trial would have reached is missing at random given those reports. Then the likelihood of the values falls
apart into one regression for each epoch on the keys and the values at all earlier ones, fitted to the
trials that reached it (Anderson 1957; Little & Rubin 2002, chapter 7). Multiple imputation is the sampled
form of the same; this is what it tends to with ever more imputations, without their noise.
"""

from dataclasses import dataclass

import numpy as np

from orchestrator.analysis.intervals import NOTHING
from orchestrator.analysis.table import Table

DRAWS = 10_000
SEED = 20_240_607
LEAST_FREEDOM = 6
"""Degrees of freedom that each of the regressions must have."""
ALONE = 0.99
"""Leverage from which on one trial alone tells some coefficient: whatever else it has goes into that."""


@dataclass(frozen=True)
class Together:
    """One of several combinations of coefficients, with what holds of all of them at once."""

    value: float
    low: float
    high: float
    p: float
    """At most 0.05 exactly where the interval leaves 0 out."""


@dataclass(frozen=True)
class Fit:
    """What is known of the keys' coefficients at an epoch, as draws of their joint posterior."""

    epoch: int
    freedom: int
    """Degrees of freedom of the last regression, the least of all."""
    draws_DP: np.ndarray

    def spread(self, contrast_P: np.ndarray) -> tuple[float, float, float]:
        """A combination of coefficients: estimate, and the ends of its 95% interval."""
        draws_D = self.draws_DP @ contrast_P
        low, middle, high = np.quantile(draws_D, [0.025, 0.5, 0.975])
        return float(middle), float(low), float(high)

    def together(self, contrasts_KP: np.ndarray) -> list[Together]:
        """Combinations of coefficients whose 95% intervals hold the truth all at once, whichever of them is
        picked for its size.

        Each interval is as many of its standard deviations wide as the furthest of all K draws from its
        middle in 95% of draws (max-|t|; Hothorn, Bretz & Westfall 2008), which counts combinations that say
        nearly the same nearly once. K >= 1.
        """
        draws_DK = self.draws_DP @ contrasts_KP.T
        middle_K, deviation_K = np.median(draws_DK, axis=0), draws_DK.std(axis=0)
        deviation_K = np.maximum(deviation_K, np.finfo(float).tiny)
        furthest_D = np.sort(np.max(np.abs(draws_DK - middle_K) / deviation_K, axis=1))
        # A draw, not a value between two, so that interval and p never disagree.
        width = float(np.quantile(furthest_D, 0.95, method="higher"))
        beyond_K = len(furthest_D) - np.searchsorted(furthest_D, np.abs(middle_K) / deviation_K)
        p_K = (1 + beyond_K) / (1 + len(furthest_D))
        return [
            Together(float(m), float(m - width * d), float(m + width * d), float(p))
            for m, d, p in zip(middle_K, deviation_K, p_K, strict=True)
        ]

    def nothing(self, place: slice) -> float:
        """p of the hypothesis that all these coefficients are 0: how far out 0 lies among the draws."""
        draws_DC = self.draws_DP[:, place]
        centre_C = draws_DC.mean(axis=0)
        inverse_CC = np.linalg.pinv(np.atleast_2d(np.cov(draws_DC, rowvar=False)))
        off_DC = draws_DC - centre_C
        far_D = np.einsum("dc,ce,de->d", off_DC, inverse_CC, off_DC)
        return float((1 + (far_D >= centre_C @ inverse_CC @ centre_C).sum()) / (1 + len(far_D)))


def fit_effects(table: Table, columns_NP: np.ndarray) -> Fit | None:
    """The coefficients at the last epoch that enough trials reached; None where even the first one has
    too few, or values without noise.

    Enough are there where none tells a coefficient alone that others told too at the first epoch.

    Flat priors: with one epoch the intervals are those of least squares by Student's t.
    """
    rng = np.random.default_rng(SEED)
    fit, totals_EDP = None, []
    at_first_N = np.zeros(len(columns_NP), bool)
    for stage, epoch in enumerate(table.epochs):
        rows_N = table.reached_NS[:, stage]
        earlier_NS = table.values_NS[rows_N, :stage]
        matrix = np.column_stack([np.ones(rows_N.sum()), columns_NP[rows_N], earlier_NS])
        freedom = len(matrix) - matrix.shape[1]
        if freedom < LEAST_FREEDOM or np.linalg.matrix_rank(matrix) < matrix.shape[1]:
            break
        alone_N = np.zeros(len(columns_NP), bool)
        alone_N[rows_N] = _leverages(matrix) > ALONE
        if stage == 0:
            at_first_N = alone_N
        elif (alone_N & ~at_first_N).any():
            break
        draws = _posterior(matrix, table.values_NS[rows_N, stage], freedom, rng)
        if draws is None:
            break
        ends = 1 + columns_NP.shape[1]
        total_DP = draws[:, 1:ends].copy()
        for weight_D, earlier_DP in zip(draws[:, ends:].T, totals_EDP, strict=True):
            total_DP += weight_D[:, None] * earlier_DP
        totals_EDP.append(total_DP)
        fit = Fit(epoch, freedom, total_DP)
    return fit


def _leverages(matrix: np.ndarray) -> np.ndarray:
    """How far each row draws the regression to itself, from 0 to 1."""
    return (np.linalg.qr(matrix)[0] ** 2).sum(axis=1)


def _posterior(
    matrix: np.ndarray, values_N: np.ndarray, freedom: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Draws of the coefficients of a linear regression under a flat prior; None where nothing is left to
    tell noise by."""
    q, r = np.linalg.qr(matrix)
    centre = np.linalg.solve(r, q.T @ values_N)
    residual = float(np.sum((values_N - matrix @ centre) ** 2))
    if residual <= NOTHING * max(1.0, float(values_N @ values_N)):
        return None
    sigma_D = np.sqrt(residual / rng.chisquare(freedom, DRAWS))
    return centre + sigma_D[:, None] * np.linalg.solve(r, rng.standard_normal((matrix.shape[1], DRAWS))).T
