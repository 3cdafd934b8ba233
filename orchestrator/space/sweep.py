"""A validated sweep: what is sampled, and the run config that it makes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    ValidationError,
)

from hjepa.config import RunConfig
from hjepa.schema import (
    Config,
    ConfigError,
    Layers,
    has_effect,
    to_yaml,
)
from orchestrator.space.config import SweepConfig, objective_mode
from orchestrator.space.distribution import COUNTABLE, conditions, label

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


MAX_GRID = 100_000
"""Trials of a grid without search.num_trials."""


@dataclass(frozen=True)
class Sweep:
    """A validated sweep. Every null and default of its file is resolved."""

    path: Path
    """The search space file."""
    config: SweepConfig
    """Keys of its space stand after those that their `when` names; each `when` lists all allowed values."""
    base: RunConfig
    """What trials start from, of the length of a full trial."""

    def resolve(self, values: Mapping[str, Any]) -> RunConfig:
        """The run config of a trial with these `values` by dotted key, swept or not.

        Raises ConfigError where they make no valid config.
        """
        try:
            return self.build(values)
        except ValidationError as error:
            message = f"{assigned(values)} makes no valid config: {schema_reason(error)}."
            raise ConfigError(f"{self.path}: {message}") from None

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
        kinds = {key: self.config.space[key].kind for key in values}
        return {
            key: label(value) if kinds[key] in ("choice", "grid_search") else value
            for key, value in values.items()
        }

    def labels(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Each value as a short text: strings as they are, the rest as JSON."""
        return {key: label(value) for key, value in values.items()}

    def base_values(self) -> dict[str, Any] | None:
        """The base's own values of the active keys, or None where one lies outside the space."""
        values = self.complete(lambda key: value_at(self.base_data, key))
        inside = all(value in self.config.space[key] for key, value in values.items())
        return values if inside else None

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination of values once, in a stable order, without the keys that are not active.

        Raises ConfigError where a key has no list of values.
        """
        points: dict[str, Sequence[Any]] = {}
        for key, distribution in self.config.space.items():
            if distribution.kind not in COUNTABLE or distribution.points is None:
                allowed = f"a grid needs one of {', '.join(COUNTABLE)}"
                raise self.error(key, f"{distribution.kind} has no list of values; {allowed}.")
            points[key] = distribution.points
        return self.combinations(points)

    @cached_property
    def num_trials(self) -> int:
        """Trials in all: search.num_trials, or for a grid the number of combinations if that is less."""
        limit = self.config.search.num_trials
        if self.config.search.algorithm != "grid":
            assert limit is not None
            return limit
        return sum(1 for _ in islice(self.grid(), limit or MAX_GRID))

    @property
    def num_confirmations(self) -> int:
        """Runs with fresh seeds after the search, the base's included."""
        confirm = self.config.confirm
        return (confirm.top_k + 1) * confirm.seeds if confirm.top_k else 0

    @property
    def objective_mode(self) -> str:
        """`max` or `min`."""
        return objective_mode(self.config.objective.metric)

    @property
    def max_epochs(self) -> int:
        """Epochs of a full trial."""
        return self.base.training.epochs

    @property
    def rungs(self) -> list[int]:
        """Epochs at which ASHA looks at a trial, short of max_epochs; none with fifo."""
        settings, found = self.config.scheduler, []
        epoch = settings.grace_epochs if settings.type != "fifo" else self.max_epochs
        while epoch < self.max_epochs:
            found.append(epoch)
            epoch *= settings.reduction_factor
        return found

    def definition(self) -> dict[str, Any]:
        """All that defines the sweep, JSON-serialisable."""
        return {"sweep": self.config.model_dump(mode="json"), "base": self.base_data}

    def fingerprint(self) -> str:
        """SHA-256 of the name and all that may change a trial's result.

        Not of speed and place, nor of the number of trials: a sweep may be extended.
        """
        telling = {"sweep": effective(self.config), "base": effective(self.base)}
        return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved file, every key written out.

        Its base is `base.yaml` beside it: `to_yaml(sweep.base)` there makes it the same sweep again.
        """
        return to_yaml(self.config.model_copy(update={"base": "base.yaml"}))

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

    def build(self, values: Mapping[str, Any]) -> RunConfig:
        """As `resolve`, but raises pydantic's ValidationError."""
        layers = Layers()
        layers.add(self.base_data, "base")
        for key, value in values.items():
            layers.set(key, value, key)
        if self.config.resources.workers > 1:
            for key, value in self._workers().items():
                layers.set(f"distributed.{key}", value, "resources")
        return RunConfig.model_validate_json(json.dumps(layers.data), strict=True)

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
        elif has_effect(field):
            found[name] = data[name]
    return found


def value_at(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of nested data."""
    value: Any = data
    for part in key.split("."):
        value = value[part]
    return value


def assigned(values: Mapping[str, Any]) -> str:
    """`key = value, ...`, for messages."""
    return ", ".join(f"{key} = {label(value)}" for key, value in values.items())


def schema_reason(error: ValidationError) -> str:
    """What pydantic has to say, in one line."""
    found = []
    for problem in error.errors(include_url=False):
        message = str(problem.get("ctx", {}).get("error") or problem["msg"])
        found.append(message[:1].lower() + message[1:])
    return "; ".join(dict.fromkeys(found))
