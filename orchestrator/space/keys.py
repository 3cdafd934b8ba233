"""Keys of a run's config, as a space may name and set them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError, create_model

from hjepa.config import RunConfig
from hjepa.metrics import MEASURED_BY as MEASURED_BY
from hjepa.schema import Config, ConfigError, has_effect, leaves, resolve_key, section_types

MEASURE = (
    "data.dataset",
    "data.data_path",
    "data.use_multi_dataset",
    "data.datasets",
    "data.class_list",
    "data.evaluate_on",
    "data.split_seed",
    "data.val_fraction",
    "evaluation",
)
"""Keys that change what the objective measures."""


def require_sweepable(where: str, key: str) -> None:
    """Raise ConfigError, which begins with `where`, if trials may not differ in `key`."""
    try:
        field = resolve_key(RunConfig, key)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if section_types(field.annotation):
        below = [leaf for leaf, _ in leaves(RunConfig) if under(leaf, [key])]
        hint = f"Vary the keys below it, written with dots: {', '.join(below)}."
        raise ConfigError(f"{where}: is a section, not a value.\n{hint}")
    if key == "training.epochs":
        raise ConfigError(f"{where}: how long trials run is the scheduler's; set scheduler.max_epochs.")
    if under(key, MEASURE):
        reason = "it changes what the objective measures, so trials could not be compared"
        raise ConfigError(f"{where}: may not vary: {reason}.\nSet it in the base, for all trials.")
    if not has_effect(field):
        raise ConfigError(f"{where}: may not vary: it changes speed or place only, never a result.")


def require_value(key: str) -> None:
    """Raise ConfigError if `key` is none that holds a value."""
    if section_types(resolve_key(RunConfig, key).annotation):
        raise ConfigError("is a section, not a value.")


@lru_cache(maxsize=256)
def _value_model(key: str) -> type[Config]:
    field = resolve_key(RunConfig, key)
    definition: Any = (field.annotation, field)
    return create_model("Value", __base__=Config, value=definition)


def admit(key: str, value: Any) -> Any:
    """A value as the schema holds it, 1 as 1.0 for a float; ValidationError where the key cannot take it."""
    holder = _value_model(key).model_validate_json(json.dumps({"value": value}), strict=True)
    return holder.model_dump(mode="json")["value"]


def dependencies_first(needs: Mapping[str, Iterable[str]], circle: str) -> list[str]:
    """The keys of `needs`, each after those of them that it needs.

    Raises ConfigError, with `circle` in which KEY is replaced, where keys need one another.
    """
    placed: dict[str, None] = {}

    def place(key: str, dependants: list[str]) -> None:
        if key in dependants:
            keys = " -> ".join([*dependants[dependants.index(key) :], key])
            raise ConfigError(f"{circle.replace('KEY', key)}: {keys}.")
        for other in needs[key]:
            if other in needs:
                place(other, [*dependants, key])
        placed[key] = None

    for key in needs:
        place(key, [])
    return list(placed)


def under(key: str, sections: Mapping[str, Any] | Sequence[str]) -> bool:
    """Whether `key` is one of `sections` or lies below one."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def value_at(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of nested data."""
    value: Any = data
    for part in key.split("."):
        value = value[part]
    return value


def schema_reason(error: ValidationError) -> str:
    """What pydantic has to say, in one line."""
    found = []
    for problem in error.errors(include_url=False):
        message = str(problem.get("ctx", {}).get("error") or problem["msg"])
        found.append(message[:1].lower() + message[1:])
    return "; ".join(dict.fromkeys(found))
