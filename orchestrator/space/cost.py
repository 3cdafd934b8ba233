"""What a configuration costs beside others, from its config alone."""

import random
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hjepa.config import RunConfig
from hjepa.measure import measure
from hjepa.schema import ConfigError
from orchestrator.space.design import with_parents
from orchestrator.space.satisfiable import draws
from orchestrator.space.sweep import Sweep

MAX_POINTS = 8
"""Values of a key that are compared."""
MAX_DRAWS = 24


@dataclass(frozen=True)
class Cost:
    """Static figures: good to compare with others of the same space, no more."""

    work: float
    """Parameters times tokens that go through them, for an epoch's images."""
    memory_bytes: int
    """Of a micro-batch at its peak, with weights, gradients and moments."""


def cost(run: RunConfig) -> Cost:
    """Of one run."""
    size = measure(run)
    crops = run.global_crops
    local = run.local_crops(run.training.epochs - 1)
    # Forward and backward of what is trained, forward of the target.
    trained = size.encoder * size.visible * (crops + local / 4)
    if run.loss.predicts:
        trained += size.predictor * (size.visible + size.predicted) * crops
        trained += size.others * size.tokens * crops
    work = 3 * trained + size.target * size.tokens * crops
    return Cost(work, size.peak_bytes)


def dearest(sweep: Sweep, by: str) -> dict[str, Any]:
    """Values of the configuration with the most `work` or `memory_bytes`, as far as single changes lead.

    From the base, key by key the dearest value is taken, until no change makes it dearer.
    """
    values: dict[str, Any] = {}
    most = getattr(cost(sweep.build(values)), by)
    better = True
    while better:
        better = False
        for key, distribution in sweep.config.space.items():
            points = distribution.ends if distribution.points is None else distribution.points
            for point in _some(points):
                changed = _changed(sweep, values, key, point)
                if changed is None:
                    continue
                found = getattr(cost(sweep.resolve(changed)), by)
                if found > most * (1 + 1e-9):
                    most, values, better = found, changed, True
    return values


def sample_costs(sweep: Sweep, seed: int = 0) -> list[float]:
    """Work of some random configurations of the space, of all where they are listed and few."""
    if sweep.listed is not None:
        chosen = random.Random(seed).sample(sweep.listed, min(MAX_DRAWS, len(sweep.listed)))
    else:
        chosen = list(islice((v for v in draws(sweep, 1000) if sweep.refused(v) is None), MAX_DRAWS))
    return [cost(sweep.resolve(values)).work for values in chosen]


def _some(points: Any) -> list[Any]:
    """At most MAX_POINTS of them, both ends among them."""
    if len(points) <= MAX_POINTS:
        return list(points)
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(step * i)] for i in range(MAX_POINTS)]


def _changed(sweep: Sweep, values: dict[str, Any], key: str, point: Any) -> dict[str, Any] | None:
    """`values` with `key` at `point`, and with what its condition asks for; None where that is no trial."""
    forced = {**values, **with_parents(sweep, {key: point})}
    data = sweep.base_data

    def chosen(other: str) -> Any:
        if other in forced:
            return forced[other]
        value: Any = data
        for part in other.split("."):
            value = value[part]
        own = sweep.config.space[other]
        return value if value in own else own.ends[0]

    found = sweep.complete(chosen)
    try:
        return found if key in found and sweep.refused(found) is None else None
    except ConfigError:
        return None
