"""What a sweep may try: values of its keys, and the run configs that they make."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from hjepa.config import RunConfig
from hjepa.schema import Config, ConfigError, Layers, has_effect, inert_keys
from orchestrator.space.config import SweepConfig
from orchestrator.space.distribution import conditions, label
from orchestrator.space.expression import ExpressionError, reader
from orchestrator.space.keys import schema_reason, under, value_at
from orchestrator.space.rules import Rules, read_rules

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Space:
    """The space of a sweep on its base. Every null and default of its file is resolved."""

    path: Path
    """The search space file."""
    config: SweepConfig
    """Keys of its space stand after those that their `when` names; each `when` lists all allowed values."""
    base: RunConfig
    """What trials start from, of the length of a full trial."""

    def resolve(self, values: Mapping[str, Any], over: Mapping[str, Any] = NOTHING) -> RunConfig:
        """The run config of a trial with these `values` by dotted key, swept or not.

        Derived values follow from them, and `over` is laid over all; without a swept key among the
        `values` nothing is derived, and it is the base's config. Raises ConfigError where they make
        no valid config.
        """
        try:
            return self.build(values, over)
        except ValidationError as error:
            message = f"{assigned(values)} makes no valid config: {schema_reason(error)}."
            raise ConfigError(f"{self.path}: {message}") from None
        except ExpressionError as error:
            raise ConfigError(f"{self.path}: {error}, at {assigned(values)}.") from None

    def refused(self, values: Mapping[str, Any]) -> str | None:
        """Why no trial is run with these `values`, such as `breaks training.lr < 1`; None: one may be."""
        try:
            broken = self.broken(values)
            if broken is None:
                self.build(values)
        except (ExpressionError, ValidationError) as error:
            reason = schema_reason(error) if isinstance(error, ValidationError) else str(error)
            return f"makes no valid config: {reason}"
        return None if broken is None else f"breaks {broken}"

    def allows(self, values: Mapping[str, Any]) -> bool:
        """Whether these `values` break no constraint. Raises ConfigError where one has no value, or what it
        reads has none."""
        try:
            return self.broken(values) is None
        except ExpressionError as error:
            raise ConfigError(f"{self.path}: {error}, at {assigned(values)}.") from None

    def broken(self, values: Mapping[str, Any]) -> str | None:
        """The constraint that these `values` break. Raises ExpressionError where one has no value."""
        if not self.rules.constraints:
            return None
        return self.rules.broken(self.read(values))

    def read(self, values: Mapping[str, Any]) -> Callable[[str], Any]:
        """What reads a dotted key of a trial with these `values`, for an expression."""
        return reader(self._layers(values).data, self.base_data)

    def part(self, keys: Set[str], **rules: Any) -> Self:
        """The same with these swept keys only; the others stay as in the base.

        `rules` are its `constraints` and `derived` where they are not the whole's.
        """
        space = {key: distribution for key, distribution in self.config.space.items() if key in keys}
        return replace(self, config=self.config.model_copy(update={"space": space, **rules}))

    def identity(self, values: Mapping[str, Any]) -> str:
        """The same for two trials that are one and the same run; with no values the base's.

        Keys of speed and place play no part, nor do those that cannot matter where they stand.
        """
        run = self.resolve(values)
        telling = without(effective(run), inert_keys(run))
        return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()

    def active(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether `key` varies given the `values` of the keys before it.

        A key that depends on one that does not vary does not vary either.
        """
        space = self.config.space
        return all(
            parent in values and label(values[parent]) in map(label, allowed)
            for parent, allowed in conditions(space[key]).items()
            if parent in space
        )

    def suggest(self, trial: "BaseTrial") -> dict[str, Any]:
        """JSON-serialisable values of the active keys, drawn by an Optuna trial.

        Choices are categories named by their labels; see `params`.
        """
        return self.complete(lambda key: self.config.space[key].suggest(trial, key))

    def params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` as Optuna's parameters, such as `enqueue_trial` takes."""
        return {
            name: param
            for key, value in values.items()
            for name, param in self.config.space[key].params(key, value).items()
        }

    def labels(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Each value as a short text: strings as they are, the rest as JSON."""
        return {key: label(value) for key, value in values.items()}

    def base_values(self) -> dict[str, Any] | None:
        """The base's own values of the active keys, or None where it lies outside the space.

        It does where a value of its own does, and where derived ones or constraints want it otherwise.
        """
        values = self.complete(lambda key: value_at(self.base_data, key))
        inside = all(value in self.config.space[key] for key, value in values.items())
        if not inside or self.refused(values) is not None or self.identity(values) != self.identity({}):
            return None
        return values

    @cached_property
    def rules(self) -> Rules:
        """Constraints and derived values."""
        return read_rules(self.path, self.config.constraints, self.config.derived, self.config.space)

    @cached_property
    def base_data(self) -> dict[str, Any]:
        """The base as plain data."""
        return self.base.model_dump(mode="json")

    def combinations(self, points: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Every combination of the `points` of active keys, the last key changing fastest."""
        keys = list(self.config.space)

        def extended(values: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
            if index == len(keys):
                yield values
            elif not self.active(keys[index], values):
                yield from extended(values, index + 1)
            else:
                for point in points[keys[index]]:
                    yield from extended({**values, keys[index]: point}, index + 1)

        return extended({}, 0)

    def error(self, key: str, message: str) -> ConfigError:
        """An error about a key of the space."""
        return ConfigError(f"{self.path}: space.{key}: {message}")

    def complete(self, choose: Callable[[str], Any]) -> dict[str, Any]:
        """The active keys, each with the value that `choose` names for it."""
        values: dict[str, Any] = {}
        for key in self.config.space:
            if self.active(key, values):
                values[key] = choose(key)
        return values

    def build(self, values: Mapping[str, Any], over: Mapping[str, Any] = NOTHING) -> RunConfig:
        """As `resolve`, but raises pydantic's ValidationError, and ExpressionError for a derived value."""
        layers = self._layers(values)
        if values.keys() & self.config.space.keys():
            self.rules.admit(layers.data)
        if self.config.resources.workers > 1:
            for key, value in self._workers().items():
                layers.set(f"distributed.{key}", value, "resources")
        for key, value in over.items():
            layers.set(key, value, key)
        return RunConfig.model_validate_json(json.dumps(layers.data), strict=True)

    def _layers(self, values: Mapping[str, Any]) -> Layers:
        """The base under `values` and what is derived from them."""
        layers = Layers()
        layers.add(self.base_data, "base")
        for key, value in values.items():
            layers.set(key, value, key)
        if values.keys() & self.config.space.keys():
            self.rules.derive(layers, self.base_data)
        return layers

    def _workers(self) -> dict[str, Any]:
        resources = self.config.resources
        return {"enabled": True, "world_size": resources.workers, "backend": resources.backend}


def effective(config: Config) -> dict[str, Any]:
    """Plain data of the keys that may change a result."""
    data = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            found[name] = effective(value)
        elif has_effect(field) and name in data:
            found[name] = data[name]
    return found


def without(value: Any, sections: Mapping[str, Any], key: str = "") -> Any:
    """Plain data, the `value` of `key`, without the keys that `sections` name or hold; elements of lists that
    they name are null."""
    if isinstance(value, dict):
        inner = {f"{key}.{name}" if key else name: name for name in value}
        return {
            name: without(value[name], sections, where)
            for where, name in inner.items()
            if not under(where, sections)
        }
    if isinstance(value, list):
        elements = {f"{key}[{number}]": element for number, element in enumerate(value)}
        return [
            None if under(where, sections) else without(element, sections, where)
            for where, element in elements.items()
        ]
    return value


def assigned(values: Mapping[str, Any]) -> str:
    """`key = value, ...`, for messages."""
    return ", ".join(f"{key} = {label(value)}" for key, value in values.items())
