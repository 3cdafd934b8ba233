"""What is tried of a space before anything starts: every choice, every combination, every key's effect."""

import json
import random
from collections.abc import Iterator, Mapping
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hjepa.schema import ConfigError, inert_keys
from orchestrator.space.design import with_parents
from orchestrator.space.distribution import conditions, label
from orchestrator.space.expression import ExpressionError
from orchestrator.space.keys import schema_reason, under, value_at
from orchestrator.space.satisfiable import allowed_draws
from orchestrator.space.space import assigned, without
from orchestrator.space.sweep import MAX_GRID, Sweep

MAX_COMBINATIONS = 2000
"""Combinations of values that are all tried before a sweep; of more, pairs and a random sample."""
MAX_PAIRS = 20_000
RANDOM_COMBINATIONS = 1000
_OPTIMIZER_KEYS = (
    "lr lr_schedule min_lr min_lr_ratio warmup_epochs warmup_lr_ratio optimizer betas weight_decay clip_grad"
)
LOSS_KEEPS_SCALE = ("seed", *(f"training.{name}" for name in _OPTIMIZER_KEYS.split()))
"""Keys between whose values a training loss can be compared."""
SETS_WIDTH = ("model.embed_dim", "model.encoder_type")
"""Keys that set how many features there are."""
SETS_VIEWS = ("data.augmentation", "data.image_size")
"""Keys that change the augmented views of evaluation images."""
SETS_SPREAD = (*SETS_WIDTH, "loss")
"""Keys that set the features' rank or spread by themselves, whatever is learnt."""


LABEL_FREE = ("val/rankme", "val/lidar", "val/feature_std")
"""Measures of the features that no label enters: of the same loss family, width and regularizer only."""
REGULARIZERS = (
    "loss.use_vicreg",
    "loss.vicreg",
    "loss.use_sigreg",
    "loss.sigreg",
    "loss.use_ntxent",
    "loss.ntxent",
    "loss.prediction_weight",
)
"""Keys that set what a regularizer of the features' spread weighs."""


def check_search(sweep: Sweep) -> None:
    search = sweep.config.search
    if search.algorithm == "grid":
        for key, distribution in sweep.config.space.items():
            if distribution.prior is not None:
                raise sweep.error(key, "prior: the trials are listed, not proposed; take it out.")
        sweep.grid()  # every key has a list of values
        points = {key: distribution.points or () for key, distribution in sweep.config.space.items()}
        trials = sum(1 for _ in islice(sweep.combinations(points), MAX_GRID + 1))
        if search.num_trials is None and trials > MAX_GRID:
            message = f"the grid has more than {MAX_GRID:,} combinations; give an upper limit"
            raise ConfigError(f"{sweep.path}: search.num_trials: {message}.")
        return
    for key, distribution in sweep.config.space.items():
        if distribution.grid_search:
            message = f"grid_search needs search.algorithm grid; with {search.algorithm} write choice"
            raise sweep.error(key, f"{message}.")
    if search.num_trials is None:
        message = f"must be given with search.algorithm {search.algorithm}, here or as --trials"
        raise ConfigError(f"{sweep.path}: search.num_trials: {message}.")


def check_brackets(sweep: Sweep) -> None:
    """There are no more brackets than rungs at which they could begin."""
    brackets, rungs = sweep.config.scheduler.brackets, sweep.rungs
    if brackets is not None and rungs and brackets > len(rungs):
        there = f"{len(rungs)} (at {', '.join(map(str, rungs))} of {sweep.max_epochs} epochs)"
        raise ConfigError(
            f"{sweep.path}: scheduler.brackets: {brackets} is more than there are rungs, {there}; "
            f"allowed: 1 to {len(rungs)}, or null for as many."
        )


def check_objective(sweep: Sweep, base_path: Path) -> None:
    """Every objective can be compared, and is measured where it is needed: the first at the rungs too."""
    evaluation = sweep.base.evaluation
    for metric in sweep.config.objective.metrics:
        key = "metric" if metric == sweep.config.objective.metric else "beside"
        where = f"{sweep.path}: objective.{key}: {metric}"
        for swept in (*sweep.config.space, *sweep.rules.derived):
            if reason := incomparable(metric, swept):
                hint = "Take val/knn_top1." if key == "metric" else "Leave it out."
                raise ConfigError(f"{where} cannot be compared between values of {swept}, {reason}.\n{hint}")
        if missing := evaluation.unmeasured(metric):
            raise ConfigError(
                f"{where} is not measured: {missing[0]} in {base_path}.\nAdd --set {missing[1]}."
            )
    where = f"{sweep.path}: objective.metric: {sweep.config.objective.metric}"
    if sweep.config.objective.metric.startswith("train/"):
        return
    for epoch in sweep.rungs:
        if epoch % evaluation.eval_frequency:
            raise ConfigError(
                f"{where} is not measured at epoch {epoch}, where ASHA needs it: evaluation.eval_frequency "
                f"is {evaluation.eval_frequency} in {base_path}.\nAdd --set evaluation.eval_frequency=1."
            )


def incomparable(metric: str, key: str) -> str | None:
    """Why a metric says nothing between runs that differ in a key, in words, or None where it may."""
    if metric in ("train/loss", "val/loss"):
        return None if key in LOSS_KEEPS_SCALE else "which may change the loss's scale"
    if metric in ("val/rankme", "val/lidar") and under(key, SETS_WIDTH):
        return "which sets the features' width and so the most that it can be"
    if metric in LABEL_FREE and under(key, SETS_SPREAD):
        return _spread_reason(key)
    if metric == "val/lidar" and under(key, SETS_VIEWS):
        return "which changes the views that it compares"
    return None


def _spread_reason(key: str) -> str:
    """Why a label-free measure of the features does not bear this key."""
    if key == "loss.type":
        return "each value of which leaves features of a rank and spread of its own, whatever is learnt"
    if under(key, REGULARIZERS):
        return "which pays the features for the very spread that is measured"
    return "which sets it whatever is learnt"


def check_combinations(sweep: Sweep) -> None:
    """Every combination tried builds a config in which every active key matters."""
    space = sweep.config.space
    points = _all_points(sweep)
    met: set[str] = set()
    for values in tried(sweep):
        met |= values.keys()
        try:
            inert = inert_keys(sweep.build(values))
        except ValidationError as error:
            raise _invalid(sweep, points, values, schema_reason(error)) from None
        except ExpressionError as error:
            raise ConfigError(f"{sweep.path}: {error}, at {assigned(values)}.") from None
        for key in values:
            if under(key, inert) and (reason := _inert_inside(sweep, values, key)):
                raise _without_effect(sweep, values, key, reason)
            if part := _told_apart_by(values[key], key, inert, points[key]):
                raise _without_effect(sweep, values, key, inert[part], part)
    for key, distribution in space.items():
        if key not in met:
            wanted = json.dumps(distribution.when)
            rules = " under the constraints" if sweep.rules.constraints else ""
            raise sweep.error(key, f"would never vary: its when {wanted} is never met as a whole{rules}.")


def tried(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The values of its keys that are tried together."""
    for values in chain(_test_values(sweep, _all_points(sweep)), allowed_draws(sweep)):
        if sweep.allows(values):
            yield values


def check_trials(sweep: Sweep) -> None:
    """There is something to try besides the base."""
    if sweep.num_trials == 0:
        raise ConfigError(f"{sweep.path}: space: every configuration of it is the base's own.")
    if sweep.config.design == "one_at_a_time" and sweep.base_values() is None:
        derived = ", ".join(sweep.rules.derived) or "constraints"
        raise ConfigError(
            f"{sweep.path}: design: one_at_a_time compares with the base, which {derived} would have "
            "otherwise; make the base such that they agree."
        )


def _all_points(sweep: Sweep) -> dict[str, list[Any]]:
    return {key: _test_points(sweep, key) for key in sweep.config.space}


def _test_points(sweep: Sweep, key: str) -> list[Any]:
    """The ends of a key's range, and what conditions ask of it."""
    asked = (conditions(distribution).get(key, []) for distribution in sweep.config.space.values())
    values = [*sweep.config.space[key].ends, *chain.from_iterable(asked)]
    return list({label(value): value for value in values}.values())


def _test_values(sweep: Sweep, points: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations if they are few, else all pairs of values and a random sample."""
    everything = list(islice(sweep.combinations(points), MAX_COMBINATIONS + 1))
    if len(everything) <= MAX_COMBINATIONS:
        return iter(everything)
    rng = random.Random(0)
    sample = (sweep.complete(lambda key: rng.choice(points[key])) for _ in range(RANDOM_COMBINATIONS))
    return chain(islice(_pairs(sweep, points), MAX_PAIRS), sample)


def _pairs(sweep: Sweep, points: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """For any two values of two keys a combination that has both, the rest as in the base if possible."""
    space = sweep.config.space
    own = {key: value_at(sweep.base_data, key) for key in space}
    usual = {key: own[key] if own[key] in space[key] else points[key][0] for key in space}

    for first, second in combinations(space, 2):
        for a in points[first]:
            for b in points[second]:
                forced = with_parents(sweep, {first: a, second: b})
                values = sweep.complete(lambda key, forced=forced: forced.get(key, usual[key]))
                if first in values and second in values:
                    yield values


def _inert_inside(sweep: Sweep, values: Mapping[str, Any], key: str) -> str | None:
    """Why `key` cannot matter, for a reason other than that a continuous range ends at that very value."""
    middles = {other: sweep.config.space[other].middle for other in values}
    inside = {**values, **{other: middle for other, middle in middles.items() if middle is not None}}
    try:
        return _inert_in(sweep, inside, key)
    except (ValidationError, ExpressionError):  # the ends are valid, the middles together are not
        return _inert_in(sweep, values, key)


def _inert_in(sweep: Sweep, values: Mapping[str, Any], key: str) -> str | None:
    inert = inert_keys(sweep.build(values))
    return next((reason for section, reason in inert.items() if under(key, [section])), None)


def _told_apart_by(value: Any, key: str, inert: Mapping[str, str], points: list[Any]) -> str | None:
    """The element of a list without which `value` would be another of the points of `key`, and which cannot
    matter; None where there is none."""
    parts = [part for part in inert if part.startswith(f"{key}[")]
    if not parts:
        return None
    same = [without(point, inert, key) == without(value, inert, key) for point in points]
    return parts[0] if sum(same) > 1 else None


def _fits(sweep: Sweep, values: Mapping[str, Any], matters: str | None = None) -> bool:
    """Whether `values` make a config, one in which the key `matters`, if given, does."""
    try:
        inert = inert_keys(sweep.build(values))
    except (ValidationError, ExpressionError):
        return False
    return matters is None or not under(matters, inert)


def _invalid(
    sweep: Sweep, points: Mapping[str, list[Any]], values: Mapping[str, Any], reason: str
) -> ConfigError:
    """What is wrong with a combination, named by those of its keys that have to do with it."""
    words = set(reason.replace(".", " ").replace(",", " ").split())
    own = {key: value_at(sweep.base_data, key) for key in values}
    guilty = {
        key: value
        for key, value in values.items()
        if key.rpartition(".")[2] in words
        or any(_fits(sweep, {**values, key: other}) for other in [*points[key], own[key]])
    } or values
    *others, last = guilty
    message = f"{assigned(guilty)} makes no valid config: {reason}."
    if not others:
        return sweep.error(last, f"{message}\nLeave that value out, or change the base.")
    for other in others:
        good = [
            point
            for point in _conditionable(sweep, other)
            if all(_fits(sweep, {**values, other: point, last: value}) for value in points[last])
        ]
        if good:
            return sweep.error(
                last, f"{message}\nKeep them apart with when: {{{other}: {_wanted(good)}}} here."
            )
    ways = "Keep them apart with when: or a constraint, narrow a range, or leave a value out."
    return sweep.error(last, f"{message}\n{ways}")


def _conditionable(sweep: Sweep, key: str) -> list[Any]:
    """The values of `key` that a proposed condition may name: none of a continuous range."""
    return list(islice(sweep.config.space[key].points or (), 100))


def _without_effect(
    sweep: Sweep, values: Mapping[str, Any], key: str, reason: str, part: str | None = None
) -> ConfigError:
    """Which value of which swept key makes `key` inert, and the condition that mends it; `part` is the
    element in which alone values of `key` differ."""
    what = f"has values that differ in {part} alone, which has" if part else "has"
    others = sorted((other for other in values if other != key), key=lambda other: other not in reason)
    for other in others:
        listed = _conditionable(sweep, other)
        good = [point for point in listed if _fits(sweep, {**values, other: point}, matters=part or key)]
        if not good:
            continue
        where = f"{other} is {label(values[other])}"
        message = f"{what} no effect where {where}" + (f" ({reason})" if reason != where else "")
        if _depends(sweep, other, on=key):
            return sweep.error(key, f"{message}.\nLeave that value out of space.{other}.")
        return sweep.error(key, f"{message}.\nAdd to it: when: {{{other}: {_wanted(good)}}}")
    return sweep.error(
        key, f"{what} no effect: {reason}.\nChange that in the base, or sweep it and add a when:."
    )


def _depends(sweep: Sweep, key: str, on: str) -> bool:
    parents = [p for p in conditions(sweep.config.space[key]) if p in sweep.config.space]
    return on in parents or any(_depends(sweep, parent, on) for parent in parents)


def _wanted(values: list[Any]) -> str:
    """Values as a condition in YAML."""
    return json.dumps(values[0] if len(values) == 1 and not isinstance(values[0], list) else values)
