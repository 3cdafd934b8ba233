"""Means, their intervals, tests and the power of tests, by Student's t."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from orchestrator.analysis.findings import Estimate

CONFIDENCE = 0.95
NOTHING = 1e-24
"""A sum of squares that sums of floats leave where there is no spread."""
POWER = 0.8
CONFIDENCE_OF_POWER = 0.8
"""How sure it is that a test has the power that is told."""
FAR = 30
"""Distances of the quartiles from the median that no usual value has."""


def interval(values: Sequence[float], compared: int = 1) -> Estimate | None:
    """Mean of independent values with its 95% interval; at least two values, else ValueError.

    Of several `compared` at once by Bonferroni's level: all of them together hold in 95%.

    None where they are all the same: that they are tells nothing of how much others would differ.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    if not _spread(values):
        return None
    from scipy import stats  # half a second, and many sweeps need none

    mean = math.fsum(values) / len(values)
    t = float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / compared, len(values) - 1))
    half = t * deviation(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values, by n - 1."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def difference(
    values: Sequence[float], others: Sequence[float], compared: int = 1
) -> tuple[float, float, float] | None:
    """Mean of `values` less that of `others`, which are independent, with its 95% interval by Welch's t;
    None under two of either and without spread. Of several `compared` at once by Bonferroni's level.
    """
    if min(len(values), len(others)) < 2 or not (_spread(values) or _spread(others)):
        return None
    from scipy import stats

    errors = [deviation(side) ** 2 / len(side) for side in (values, others)]
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(side) - 1) for error, side in zip(errors, (values, others), strict=True)
    )
    gain = math.fsum(values) / len(values) - math.fsum(others) / len(others)
    half = float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / compared, freedom)) * math.sqrt(sum(errors))
    return gain, gain - half, gain + half


def mean_is_zero(values: Sequence[float]) -> float | None:
    """p of the t test that independent values have mean 0; two values at least.

    None where they are all the same: without any spread there is no p.
    """
    from scipy import stats

    if not _spread(values):
        return None
    t = abs(math.fsum(values) / len(values)) * math.sqrt(len(values)) / deviation(values)
    return float(2 * stats.t.sf(t, len(values) - 1))


def far_out(values_N: np.ndarray) -> np.ndarray:
    """Which values lie apart from all that is usual among them, as the loss of a run that diverged: further
    from the median than FAR times the distance of the quartiles."""
    low, middle, high = np.quantile(values_N, [0.25, 0.5, 0.75])
    return (np.abs(values_N - middle) > FAR * (high - low)) & (high > low)


def _spread(values: Sequence[float]) -> bool:
    """Whether values differ by more than what sums of floats leave."""
    return max(values) - min(values) > 1e-12 * max(1.0, *map(abs, values))


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given."""
    found, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        found[index] = least
    return found


def power(effect: float, error: float, freedom: float, compared: int = 1) -> float:
    """Chance that a two-sided t test at level 5% shows a true `effect`, whose estimate has standard
    error `error` on `freedom` degrees of freedom.

    Of several compared at once by Bonferroni's level.
    """
    from scipy import stats

    if error <= 0:
        return 1.0 if effect else 1 - CONFIDENCE
    t = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / compared, freedom)
    shift = abs(effect) / error
    # Far out scipy's noncentral t is nan; what lies there is certain.
    if shift > t + 30:
        return 1.0
    found = stats.nct.sf(t, freedom, shift) + stats.nct.cdf(-t, freedom, shift)
    return float(np.clip(np.nan_to_num(found, nan=1.0), 0, 1))


def detectable(error: float, freedom: float, compared: int = 1) -> float:
    """Least true effect that a test such as `power`'s shows with 80% power, whose standard error was seen
    to be `error`.

    A deviation seen in few runs is often too small, and what is computed from it then promises too much. So
    it is computed from the upper limit of the 80% confidence interval with one side (chi-squared): at least
    this power is there in 80% of sweeps.
    """
    return max(0.0, error) * _detectable_errors(freedom, compared)


@lru_cache
def _detectable_errors(freedom: float, compared: int) -> float:
    """The same, in standard errors."""
    from scipy import stats

    error = math.sqrt(freedom / float(stats.chi2.ppf(1 - CONFIDENCE_OF_POWER, freedom)))
    low, high = 0.0, error
    while power(high, error, freedom, compared) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, error, freedom, compared) >= POWER else (middle, high)
    return high
