"""Weights that sum to 1, as numbers between 0 and 1 that do not depend on one another.

A stick is broken weight by weight; each number says where, such that numbers drawn uniformly give weights
drawn uniformly from all that there are (Devroye 1986, chapter XI.4).
"""

from collections.abc import Sequence
from typing import Any

DIGITS = 6
"""Decimals of a weight."""


def names(key: str, size: int) -> list[str]:
    """Optuna's parameters for `size` weights of `key`."""
    return [f"{key}[{i}]" for i in range(size - 1)]


def key_of(name: str) -> str:
    """The key of one of Optuna's parameters; of those that are no weights it is the name."""
    return name.partition("[")[0]


def weights(sticks: Sequence[float]) -> list[float]:
    """The weights, one more than there are numbers."""
    left, found = 1.0, []
    for i, stick in enumerate(sticks):
        found.append(round(left * (1 - (1 - stick) ** (1 / (len(sticks) - i))), DIGITS))
        left = max(0.0, round(left - found[-1], DIGITS))
    return [*found, left]


def sticks(weights: Sequence[float]) -> list[float]:
    """The numbers that give `weights`, to within their decimals."""
    left, found = 1.0, []
    for i, weight in enumerate(weights[:-1]):
        share = min(1.0, weight / left) if left > 0 else 0.0
        found.append(1 - (1 - share) ** (len(weights) - 1 - i))
        left -= weight
    return found


def holds(value: Any, size: int) -> bool:
    """Whether `value` is such a list of weights."""
    if not isinstance(value, list | tuple) or len(value) != size:
        return False
    numbers = [weight for weight in value if isinstance(weight, int | float) and not isinstance(weight, bool)]
    return len(numbers) == size and min(numbers) >= 0 and abs(sum(numbers) - 1) < 10 ** (1 - DIGITS)


def examples(size: int) -> list[list[float]]:
    """Even weights, and for each a list in which it has nine tenths."""
    small = 0.1 / (size - 1)
    return [
        weights(sticks([1 / size] * size)),
        *([0.9 if i == large else small for i in range(size)] for large in range(size)),
    ]
