"""What a sweep may try, in words: its keys and their conditions, its rules, its configurations."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice

from pydantic import ValidationError

from hjepa.schema import inert_reason
from orchestrator.space.design import MAX_COUNTED, one_at_a_time, with_parents
from orchestrator.space.distribution import Distribution, conditions, label
from orchestrator.space.expression import Expression, ExpressionError
from orchestrator.space.keys import schema_reason, value_at
from orchestrator.space.satisfiable import DRAWS, draws
from orchestrator.space.sweep import Sweep

TO_TRY = "to try"
SHOWN = 12
"""Values of a key that are written out."""


def describe(sweep: Sweep) -> list[str]:
    """A line for each thing worth knowing before a sweep runs."""
    rungs = f", rungs at {', '.join(map(str, sweep.rungs))}" if sweep.rungs else ""
    confirmed = f", {sweep.num_confirmations} runs with fresh seeds" if sweep.num_confirmations else ""
    trials = "1 trial" if sweep.num_trials == 1 else f"{sweep.num_trials} trials"
    metric, *beside = sweep.config.objective.metrics
    others = f"; beside it {', '.join(beside)}" if beside else ""
    return [
        f"{trials} {_design(sweep)}, the base config{confirmed}",
        f"up to {sweep.max_epochs} epochs{rungs}; {metric}, {sweep.objective_mode}{others}",
        *(f"{key}: {_key(sweep, key, distribution)}" for key, distribution in sweep.config.space.items()),
        *_derived(sweep),
        *_constraints(sweep),
        _configurations(sweep),
    ]


def _design(sweep: Sweep) -> str:
    if sweep.listed is None:
        return f"proposed by {sweep.config.search.algorithm}"
    return "with one key changed each" if sweep.config.design == "one_at_a_time" else "of a grid"


def _key(sweep: Sweep, key: str, distribution: Distribution) -> str:
    own = value_at(sweep.base_data, key)
    parts = [_takes(distribution), f"{label(own)} in the base" + ("" if own in distribution else ", outside")]
    if distribution.prior is not None:
        prior = distribution.prior
        parts.append(f"first near {label(prior.value)}, with confidence {prior.confidence:g}")
    when = [
        f"{parent} is {' or '.join(map(label, allowed))}"
        for parent, allowed in conditions(distribution).items()
        if parent in sweep.config.space
    ]
    if when:
        parts.append(f"when {' and '.join(when)}; {_elsewhere(sweep, key)}")
    return "; ".join(parts)


def _takes(distribution: Distribution) -> str:
    if distribution.points is None or distribution.kind == "lograndint":
        return f"{distribution.kind} {json.dumps(list(distribution.arguments))}"
    shown = list(map(label, islice(distribution.points, SHOWN)))
    more = len(distribution.points) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _elsewhere(sweep: Sweep, key: str) -> str:
    """What would be of a key where its condition is not met."""
    reasons: dict[str, None] = {}
    space = sweep.config.space
    for parent, allowed in conditions(space[key]).items():
        for point in islice(space[parent].points or (), SHOWN) if parent in space else ():
            if label(point) in map(label, allowed):
                continue
            forced = with_parents(sweep, {parent: point})
            values = sweep.complete(lambda k, forced=forced: forced.get(k, value_at(sweep.base_data, k)))
            for end in space[key].ends:
                try:
                    reason = inert_reason(sweep.build({**values, key: end}), key)
                except (ValidationError, ExpressionError) as error:
                    reason = schema_reason(error) if isinstance(error, ValidationError) else str(error)
                if reason is not None:
                    reasons[reason] = None
    return f"without effect elsewhere ({'; '.join(islice(reasons, 3))})" if reasons else "else as in the base"


def _derived(sweep: Sweep) -> Iterator[str]:
    trials = sweep.listed or [v for v in draws(sweep, DRAWS) if sweep.refused(v) is None]
    runs = [sweep.read(values) for values in trials]
    for key, expression in sweep.rules.derived.items():
        values = [read(key) for read in runs]
        if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            shown = f"{min(values):.4g} to {max(values):.4g}"
        else:
            shown = ", ".join(list(dict.fromkeys(map(label, values)))[:SHOWN])
        yield f"{key}: {expression.text}; {shown}, {label(value_at(sweep.base_data, key))} in the base"


def _constraints(sweep: Sweep) -> Iterator[str]:
    for text, expression in sweep.rules.constraints.items():
        kept = sum(_keeps(sweep, expression, values) for values in draws(sweep, DRAWS))
        yield f"constraint: {text}; keeps {kept / DRAWS:.0%} of what is drawn at random"


def _keeps(sweep: Sweep, constraint: Expression, values: Mapping[str, object]) -> bool:
    try:
        return constraint.holds(sweep.read(values))
    except ExpressionError:
        return False


def _configurations(sweep: Sweep) -> str:
    """How many there are, and what is left out."""
    points = {key: distribution.points for key, distribution in sweep.config.space.items()}
    endless = [key for key, values in points.items() if values is None]
    if endless:
        return f"configurations: without end, for {endless[0]} is a range"
    if sweep.config.design == "one_at_a_time":
        combinations = one_at_a_time(sweep)
    else:
        combinations = sweep.combinations({key: values or () for key, values in points.items()})
    every = list(islice(combinations, MAX_COUNTED + 1))
    if len(every) > MAX_COUNTED:
        return f"configurations: more than {MAX_COUNTED:,} combinations"
    counts: Counter[str] = Counter()
    seen = {sweep.identity({}): "the base's own"}
    for values in every:
        if sweep.refused(values) is not None:
            counts["against a constraint"] += 1
            continue
        same = sweep.identity(values)
        counts[seen.get(same, TO_TRY)] += 1
        seen.setdefault(same, "the same run as another")
    total, left = counts.total(), counts.pop(TO_TRY, 0)
    parts = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    return f"configurations: {left:,} {TO_TRY} of {total:,} combinations" + (f"; {parts}" if parts else "")
