"""What holds between the keys of a trial: values derived from others, and constraints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hjepa.schema import ConfigError, Layers
from orchestrator.space.distribution import Distribution, label
from orchestrator.space.expression import Expression, ExpressionError, reader
from orchestrator.space.keys import (
    admit,
    dependencies_first,
    require_sweepable,
    require_value,
    schema_reason,
    value_at,
)


class Rules:
    """The constraints and derived values of a space."""

    def __init__(self, constraints: Mapping[str, Expression], derived: Mapping[str, Expression]):
        self.constraints, self.derived = constraints, derived
        """Both by what they are called in messages: a constraint by its text, a derived value by its key,
        after those that it reads."""

    def derive(self, layers: Layers, base: Mapping[str, Any]) -> None:
        """Lay the derived values over the trial in `layers`. Raises ExpressionError where one has none."""
        for key, expression in self.derived.items():
            where = f"derived.{key}: {expression.text}"
            try:
                layers.set(key, expression.value(reader(layers.data, base)), where)
            except ExpressionError as error:
                raise ExpressionError(f"{where}: {error}") from None

    def admit(self, data: Mapping[str, Any]) -> None:
        """Raise ExpressionError where a derived value in `data` is not allowed."""
        for key, expression in self.derived.items():
            value = value_at(data, key)
            try:
                admit(key, value)
            except ValidationError as error:
                raise ExpressionError(
                    f"derived.{key}: {expression.text} gives {label(value)}, which is not allowed: "
                    f"{schema_reason(error)}"
                ) from None

    def broken(self, read: Callable[[str], Any]) -> str | None:
        """The first constraint that a trial breaks, whose keys `read` gives.

        Raises ExpressionError where one has no value.
        """
        for text, expression in self.constraints.items():
            try:
                if not expression.holds(read):
                    return text
            except ExpressionError as error:
                raise ExpressionError(f"constraints: {text}: {error}") from None
        return None

    def sources(self, keys: tuple[str, ...]) -> set[str]:
        """The keys that `keys` depend on, themselves included, through derived ones."""
        found: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += self.derived[key].keys if key in self.derived else ()
        return found


def read_rules(
    path: Path, constraints: tuple[str, ...], derived: Mapping[str, str], space: Mapping[str, Distribution]
) -> Rules:
    """The rules as a space file has them. Raises ConfigError on what is wrong whatever the values are."""
    parsed = {text: _parse(f"{path}: constraints[{i}]", text) for i, text in enumerate(constraints)}
    values = {key: _parse(f"{path}: derived.{key}", text) for key, text in derived.items()}
    for key in values:
        require_sweepable(f"{path}: derived.{key}", key)
        if key in space:
            raise ConfigError(f"{path}: derived.{key}: is swept too; take it out of one of the two.")
    for key, distribution in space.items():
        for parent in distribution.when:
            if parent in values:
                raise ConfigError(
                    f"{path}: space.{key}.when.{parent}: is derived; a condition needs a key that is swept."
                )
    circle = f"{path}: derived.KEY: values are derived in a circle"
    order = dependencies_first({key: expression.keys for key, expression in values.items()}, circle)
    rules = Rules(parsed, {key: values[key] for key in order})
    for i, (text, expression) in enumerate(parsed.items()):
        if not rules.sources(expression.keys) & space.keys():
            raise ConfigError(f"{path}: constraints[{i}]: {text}: reads no swept key, so nothing changes it.")
    for key, expression in values.items():
        if not rules.sources(expression.keys) & space.keys():
            raise ConfigError(
                f"{path}: derived.{key}: {expression.text}: reads no swept key, so it is the same for all "
                "trials; set it in the base."
            )
    return rules


def _parse(where: str, text: str) -> Expression:
    try:
        expression = Expression(text)
    except ExpressionError as error:
        raise ConfigError(f"{where}: {text}: {error}.") from None
    for key in (*expression.keys, *expression.base_keys):
        try:
            require_value(key)
        except ConfigError as error:
            hint = "" if "." in key else f"\nText stands in quotes: '{key}'."
            raise ConfigError(f"{where}: {text}: {key}: {error}{hint}") from None
    return expression
