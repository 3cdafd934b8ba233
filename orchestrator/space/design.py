"""Which trials a design lists, and how many different ones a space has."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hjepa.schema import ConfigError
from orchestrator.space.distribution import COUNTABLE, Distribution, conditions, label
from orchestrator.space.keys import value_at
from orchestrator.space.space import Space

MAX_COUNTED = 20_000
"""Combinations of a sampled space that are gone through to count the different configurations."""


def one_at_a_time(sweep: Space) -> Iterator[dict[str, Any]]:
    """For every value of every key the base with that one changed, and with what its `when` asks for."""
    space = sweep.config.space
    own = {key: value_at(sweep.base_data, key) for key in space}
    for key, distribution in space.items():
        for point in distribution.points or ():
            forced = with_parents(sweep, {key: point})
            values = sweep.complete(lambda other, forced=forced: forced.get(other, own[other]))
            if key in values:
                yield values


def with_parents(sweep: Space, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`wanted`, and what the conditions of its keys ask for, the base's own values where they do."""
    space, forced = sweep.config.space, dict(wanted)

    def require(key: str) -> None:
        for parent, allowed in conditions(space[key]).items():
            if parent in space and parent not in forced:
                own = value_at(sweep.base_data, parent)
                forced[parent] = own if label(own) in map(label, allowed) else allowed[0]
                require(parent)

    for key in wanted:
        require(key)
    return forced


def distinct(sweep: Space, proposals: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of `proposals` each that may run and is neither the base nor the same run as one before it, with the
    identity of its run."""
    seen = {sweep.identity({})}
    for values in proposals:
        if sweep.refused(values) is not None:
            continue
        same = sweep.identity(values)
        if same not in seen:
            seen.add(same)
            yield same, values


def count_distinct(sweep: Space, limit: int) -> int | None:
    """How many different runs a space has beside the base, counted up to `limit`.

    None where there are too many to count, as with any continuous range.
    """
    countable = every_run(sweep)
    return None if countable is None else sum(1 for _ in islice(countable, limit))


def every_run(sweep: Space) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """The different runs that a space has beside the base, identity and values, in a stable order; None where
    there are many."""
    points = {key: distribution.points for key, distribution in sweep.config.space.items()}
    listed = {key: values for key, values in points.items() if values is not None}
    if len(listed) < len(points) or math.prod(map(len, listed.values())) > MAX_COUNTED:
        return None
    return distinct(sweep, sweep.combinations(listed))


def with_base_values(
    path: Path, space: Mapping[str, Distribution], base_data: Mapping[str, Any]
) -> dict[str, Distribution]:
    """The space with the base's value among the values of each key, as one_at_a_time needs it."""
    found: dict[str, Distribution] = {}
    for key, distribution in space.items():
        own = value_at(base_data, key)
        if distribution.kind in ("choice", "grid_search") and own not in distribution:
            distribution = distribution.model_copy(update={distribution.kind: (own, *distribution.arguments)})
        if distribution.kind not in COUNTABLE or own not in distribution:
            raise ConfigError(
                f"{path}: space.{key}: with design one_at_a_time it needs a list of values, or a range of "
                f"{', '.join(COUNTABLE[2:])} with the base's {label(own)} in it."
            )
        found[key] = distribution
    return found
