"""How one key varies."""

import difflib
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from hjepa.schema import (
    Config,
)
from orchestrator.space import simplex

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


MAX_STEPS = 10_000
"""Values of a quniform range."""

# What each distribution takes, and which can be written out value by value for a grid.
ARGUMENTS = {
    "choice": "[value, ...]",
    "grid_search": "[value, ...]",
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quniform": "[low, high, q]",
    "randint": "[low, high]",
    "lograndint": "[low, high]",
    "simplex": "a size of 2 or more",
}
COUNTABLE = ("choice", "grid_search", "quniform", "randint")
CONTINUOUS = ("uniform", "loguniform", "simplex")


class Prior(Config):
    """A guess at the best value of a key, made before the search."""

    value: JsonValue
    """The value that is expected to be good."""
    confidence: float = Field(gt=0, le=1)
    """Chance that the first proposal takes a value near it; after n trials it is that / (1 + n/10)."""


class Distribution(Config):
    """How one key varies: exactly one distribution, by Ray Tune's names, and on what condition."""

    choice: tuple[JsonValue, ...] | None = None
    """One of these values."""
    grid_search: tuple[JsonValue, ...] | None = None
    """Each of these values in turn; with search.algorithm grid only, where it equals choice."""
    uniform: tuple[float, float] | None = None
    """A number from low to high."""
    loguniform: tuple[float, float] | None = None
    """A number from low to high, its logarithm uniform; low > 0."""
    quniform: tuple[float, float, float] | None = None
    """A multiple of q from low to high, both included; low and high are multiples too."""
    randint: tuple[int, int] | None = None
    """A whole number from low to high, high excluded."""
    lograndint: tuple[int, int] | None = None
    """A whole number from low to high, high excluded, its logarithm uniform; low >= 1."""
    simplex: int | None = Field(default=None, ge=2, le=64)
    """A list of so many weights, none negative, of sum 1; each such list is as likely as any other."""
    when: dict[str, JsonValue] = Field(default={})
    """Config keys, and the value or list of values that each must have for this key to be varied;
    otherwise it keeps the base's value."""
    prior: Prior | None = None
    """A guess that the first proposals lean to."""

    @model_validator(mode="before")
    @classmethod
    def _one_distribution(cls, data: Any) -> Any:
        names = ", ".join(ARGUMENTS)
        if not isinstance(data, dict):
            raise ValueError(f"must be a distribution, such as {{choice: [value, ...]}}; one of {names}")
        for name in data:
            if name not in cls.model_fields:
                near = difflib.get_close_matches(str(name), cls.model_fields, n=1)
                hint = f"nearest: {near[0]}; " if near else ""
                raise ValueError(f"no such distribution: {name}; {hint}one of {names}, and when, prior")
        given = [name for name in ARGUMENTS if data.get(name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {' and '.join(given) or 'no distribution'}; must have exactly one of {names}"
            )
        takes, value = ARGUMENTS[given[0]], data[given[0]]
        if given[0] == "simplex":
            return data
        numbers = 0 if "..." in takes else takes.count(",") + 1
        if not isinstance(value, list) or (numbers and len(value) != numbers):
            raise ValueError(f"{given[0]} takes {takes}, got {json.dumps(value)}")
        # Past a validator such as this pydantic no longer takes a list for a tuple.
        return data | {given[0]: tuple(value)}

    @model_validator(mode="after")
    def _arguments_make_sense(self) -> Self:
        if self.kind in ("choice", "grid_search"):
            if not self.arguments:
                raise ValueError(f"{self.kind} is empty; give at least one value")
            return self
        if self.simplex:
            return self
        low, high = self.arguments[:2]
        if low >= high:
            raise ValueError(f"{self.kind} has low {low:g} and high {high:g}; low must be less than high")
        if self.kind in ("loguniform", "lograndint") and low <= 0:
            raise ValueError(f"{self.kind} has low {low:g}; a logarithmic range must be above 0")
        if self.kind in ("randint", "lograndint") and max(-low, high) > 2**53:
            raise ValueError(f"{self.kind} goes beyond 2^53, where not every whole number can be drawn")
        if self.quniform:
            low_d, high_d, q_d = (Decimal(str(number)) for number in self.quniform)
            if q_d <= 0:
                raise ValueError(f"quniform has q {q_d}; must be above 0")
            # First, for of more values the remainder has more digits than a Decimal.
            if (high_d - low_d) / q_d >= MAX_STEPS:
                raise ValueError(f"quniform has more than {MAX_STEPS:,} values; write uniform")
            if low_d % q_d or high_d % q_d:
                raise ValueError(f"quniform goes from {low_d} to {high_d}; both must be multiples of q {q_d}")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value not in (None, {})}

    @property
    def kind(self) -> str:
        """Name of the distribution."""
        return next(name for name in ARGUMENTS if getattr(self, name) is not None)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the distribution was given."""
        return (self.simplex,) if self.simplex else getattr(self, self.kind)

    @property
    def points(self) -> Sequence[Any] | None:
        """Every value, in order; None for a continuous range."""
        if self.kind in CONTINUOUS:
            return None
        if self.quniform:
            low_d, high_d, q_d = (Decimal(str(number)) for number in self.quniform)
            return [float(q_d * step) for step in range(int(low_d / q_d), int(high_d / q_d) + 1)]
        return range(*self.arguments) if self.kind in ("randint", "lograndint") else self.arguments

    @property
    def ends(self) -> Sequence[Any]:
        """All choices, or the least and the greatest value of a range."""
        if self.simplex:
            return simplex.examples(self.simplex)
        points = self.arguments[:2] if self.points is None else self.points
        return points if self.kind in ("choice", "grid_search") else (points[0], points[-1])

    @property
    def middle(self) -> Any:
        """A value well inside a continuous range; None for the others."""
        if self.points is not None:
            return None
        if self.simplex:
            return simplex.examples(self.simplex)[0]
        low, high = self.arguments
        return math.sqrt(low * high) if self.kind == "loguniform" else (low + high) / 2

    def __contains__(self, value: Any) -> bool:
        if self.kind in ("choice", "grid_search"):
            return label(value) in map(label, self.arguments)
        if self.simplex:
            return simplex.holds(value, self.simplex)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.arguments[:2]
        return low <= value <= high if self.points is None else value in self.points

    def suggest(self, trial: "BaseTrial", key: str) -> Any:
        """A value, drawn by an Optuna trial under the name `key`."""
        match self.kind:
            case "choice" | "grid_search":
                labels = {label(value): value for value in self.arguments}
                return labels[trial.suggest_categorical(key, list(labels))]
            case "simplex":
                names = simplex.names(key, *self.arguments)
                return simplex.weights([trial.suggest_float(name, 0.0, 1.0) for name in names])
            case "randint" | "lograndint":
                low, high = self.arguments
                return trial.suggest_int(key, low, high - 1, log=self.kind == "lograndint")
            case "quniform":
                low, high, q = self.arguments
                drawn = trial.suggest_float(key, low, high, step=q)
                # Optuna's low + k * step is subject to rounding: 0.1 + 2 * 0.1 is no 0.3.
                return min(self.points or (), key=lambda point: abs(point - drawn))
            case _:
                return trial.suggest_float(key, *self.arguments, log=self.kind == "loguniform")

    def params(self, key: str, value: Any) -> dict[str, Any]:
        """The Optuna parameters, by name, that give `value`."""
        if self.simplex:
            return dict(zip(simplex.names(key, self.simplex), simplex.sticks(value), strict=True))
        return {key: label(value) if self.kind in ("choice", "grid_search") else value}


def conditions(distribution: Distribution) -> dict[str, list[Any]]:
    """The normalised `when`: keys and all their allowed values."""
    return cast(dict[str, list[Any]], distribution.when)


def label(value: Any) -> str:
    """A value as a short text: a string as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
