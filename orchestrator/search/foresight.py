"""What trials would have come to at the end, told from what the others of the sweep did on their way."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

AS_IF = 2
"""Pairs of values that speak for one more at the one look being one more at the next, beside those seen."""


def at_looks(curve: Mapping[int, float], looks: Sequence[int]) -> list[float]:
    """The values of a curve, epoch to value, at those epochs; NaN where it has none."""
    return [curve.get(epoch, math.nan) for epoch in looks]


def foreseen_ends(values_NL: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each of N curves would come to at the last of L looks; NaN for one that has been at none.

    `values_NL` are its values there (`at_looks`).

    From one look to the next a value is carried on by the straight line through the curves that have been
    at both, by least squares. That some went on for their value there does not bend the line, and that
    others went on whatever their value helps it.
    """
    looks = values_NL.shape[1]
    known = np.isfinite(values_NL)
    last = np.where(known.any(axis=1), looks - 1 - np.argmax(known[:, ::-1], axis=1), -1)
    ends = np.where(last >= 0, values_NL[np.arange(len(values_NL)), last], np.nan)
    for place in range(looks - 1):
        both = known[:, place] & known[:, place + 1]
        before, after = values_NL[both, place], values_NL[both, place + 1]
        mean, mean_after, slope = _line(before, after)
        goes_on = (last >= 0) & (last <= place)
        ends[goes_on] = mean_after + slope * (ends[goes_on] - mean)
    return ends


def _line(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float, float]:
    """Through which point the line goes, and how steeply; without any pair it changes nothing."""
    if not len(before):
        return 0.0, 0.0, 1.0
    mean, mean_after = float(before.mean()), float(after.mean())
    spread = float(((before - mean) ** 2).mean())
    if spread == 0:
        return mean, mean_after, 1.0
    together = float(((before - mean) * (after - mean_after)).mean())
    return mean, mean_after, (len(before) * together + AS_IF * spread) / ((len(before) + AS_IF) * spread)
