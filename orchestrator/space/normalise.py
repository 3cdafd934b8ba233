"""The space as written, with values as the schema holds them and conditions in order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hjepa.config import RunConfig
from hjepa.schema import ConfigError
from orchestrator.space.distribution import Distribution, label
from orchestrator.space.keys import admit, dependencies_first, require_value, schema_reason, value_at


def normalised(
    path: Path, space: Mapping[str, Distribution], run: RunConfig, base_path: Path
) -> dict[str, Distribution]:
    """The space with values as the schema holds them, and each key after those that it depends on."""
    admitted = {
        key: _normalised_prior(path, key, _normalised_values(path, key, distribution))
        for key, distribution in space.items()
    }
    base_data = run.model_dump(mode="json")
    found: dict[str, Distribution] = {}
    for key, distribution in admitted.items():
        when: dict[str, list[Any]] = {}
        for parent, wanted in distribution.when.items():
            where = f"{path}: space.{key}.when.{parent}"
            when[parent] = _normalised_wanted(where, parent, wanted)
            if parent in admitted:
                _require_taken(where, parent, when[parent], admitted[parent])
            else:
                _require_met(where, parent, when[parent], value_at(base_data, parent), base_path)
        found[key] = distribution.model_copy(update={"when": when})
    circle = f"{path}: space.KEY.when: keys depend on one another in a circle"
    order = dependencies_first({key: distribution.when for key, distribution in found.items()}, circle)
    return {key: found[key] for key in order}


def _normalised_values(path: Path, key: str, distribution: Distribution) -> Distribution:
    where, values = f"{path}: space.{key}", []
    for value in distribution.ends:
        try:
            values.append(admit(key, value))
        except ValidationError as error:
            hint = ""
            if isinstance(value, float) and "integer" in schema_reason(error):
                hint = "\nThe key takes whole numbers: write randint, lograndint or choice."
            shown = json.dumps(value)
            raise ConfigError(f"{where}: {shown} is not allowed: {schema_reason(error)}.{hint}") from None
    if distribution.kind not in ("choice", "grid_search"):
        if distribution.kind in ("randint", "lograndint") and isinstance(values[0], float):
            raise ConfigError(f"{where}: the key takes any number: write quniform, uniform or loguniform.")
        return distribution
    labels = [label(value) for value in values]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: space.{key}: {distribution.kind} has {twice} twice.")
    return distribution.model_copy(update={distribution.kind: tuple(values)})


def _normalised_prior(path: Path, key: str, distribution: Distribution) -> Distribution:
    prior = distribution.prior
    if prior is None:
        return distribution
    where, shown = f"{path}: space.{key}.prior.value", label(prior.value)
    try:
        value = admit(key, prior.value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {shown} is not allowed: {schema_reason(error)}.") from None
    if value not in distribution:
        takes = json.dumps(distribution.arguments)
        raise ConfigError(f"{where}: {shown} is outside of {distribution.kind}: {takes}.")
    return distribution.model_copy(update={"prior": prior.model_copy(update={"value": value})})


def _normalised_wanted(where: str, parent: str, wanted: Any) -> list[Any]:
    """The values that a condition allows: of a list each, unless the key's own values are lists."""
    try:
        require_value(parent)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    alternatives = [wanted]
    if isinstance(wanted, list):
        try:
            return [admit(parent, wanted)]
        except ValidationError:
            alternatives = wanted
    if not alternatives:
        raise ConfigError(f"{where}: is empty; give a value, or a list of values.")
    found = []
    for value in alternatives:
        try:
            found.append(admit(parent, value))
        except ValidationError as error:
            shown = json.dumps(value)
            raise ConfigError(f"{where}: {shown} is not allowed: {schema_reason(error)}.") from None
    return found


def _require_taken(where: str, parent: str, wanted: list[Any], distribution: Distribution) -> None:
    if distribution.points is None:
        raise ConfigError(
            f"{where}: {parent} varies continuously ({distribution.kind}) and hits no single value; "
            "a condition needs a key with choices or whole numbers."
        )
    for value in wanted:
        if value not in distribution:
            takes = f"{distribution.kind}: {json.dumps(distribution.arguments)}"
            raise ConfigError(f"{where}: {parent} never takes {label(value)}; the space has {takes}.")


def _require_met(where: str, parent: str, wanted: list[Any], has: Any, base_path: Path) -> None:
    if label(has) not in map(label, wanted):
        raise ConfigError(
            f"{where}: the key would never vary: {parent} is not in the space, and is {label(has)} "
            f"in {base_path}.\nSet it to {label(wanted[0])} there, or sweep it."
        )
