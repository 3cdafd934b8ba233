"""Two sweeps or more side by side, and whether their figures may be compared."""

from collections.abc import Sequence

from orchestrator.analysis.findings import Confirmed
from orchestrator.analysis.intervals import difference
from orchestrator.definition import flat
from orchestrator.reporting.caption import NONE, number, signs
from orchestrator.reporting.material import Material
from orchestrator.reporting.sentences import lost_runs
from orchestrator.reporting.tables import Table
from orchestrator.space.checks import incomparable
from orchestrator.space.keys import MEASURE, MEASURED_BY, under
from orchestrator.space.space import effective
from orchestrator.study.record import standing

SHOWN = 20


def side_by_side(sweeps: Sequence[Material]) -> Table:
    """What each has found."""
    rows = [
        ["state", *(s.state for s in sweeps)],
        ["objective", *(s.metric for s in sweeps)],
        ["trials", *(str(len(standing(s.records))) for s in sweeps)],
        ["epochs of a full trial", *(str(s.sweep.max_epochs) for s in sweeps)],
        ["base config", *(number(s.value(s.base)) if s.base else NONE for s in sweeps)],
        ["best of the search", *(_best(s) for s in sweeps)],
        ["base, fresh seeds", *(_base(s) for s in sweeps)],
        ["first finalist, fresh seeds", *(_finalist(s) for s in sweeps)],
    ]
    note = (
        "The best of a search is the best of many noisy figures, and too good on average. The first finalist "
        "was put first by the search, before its fresh seeds were run, so that their mean is not."
    )
    return Table("Sweeps compared", note, ["", *(s.name for s in sweeps)], rows)


def obstacles(sweeps: Sequence[Material]) -> list[str]:
    """Why the objectives of these sweeps do not compare; empty where they do."""
    found = []
    if len({s.metric for s in sweeps}) > 1:
        found.append(f"the objectives differ: {', '.join(s.metric for s in sweeps)}")
    if len({s.sweep.max_epochs for s in sweeps}) > 1:
        found.append(f"full trials have {', '.join(str(s.sweep.max_epochs) for s in sweeps)} epochs")
    telling = {key for s in sweeps for key in flat(effective(s.sweep.base))}
    for key, values in base_differences(sweeps).items():
        reason = _obstacle(sweeps[0].metric, key) if key in telling else None
        found += [f"{key}: {', '.join(values)}, {reason}"] if reason else []
    return found


def _obstacle(metric: str, key: str) -> str | None:
    """Why `metric` does not compare between bases that differ in `key`, in words, or None where it does.

    Swept and derived keys need not be asked about: a space between whose own trials its objective does not
    compare is not loaded.
    """
    if key == "training.epochs":  # of all trials, and told apart
        return None
    if under(key, MEASURE):
        own = (measured for part, measured in MEASURED_BY.items() if under(key, [part]))
        return "which changes what the objective measures" if metric.startswith(next(own, "")) else None
    return incomparable(metric, key)


def base_differences(sweeps: Sequence[Material]) -> dict[str, list[str]]:
    """The base configs' keys that are not the same in all, and their values in each."""
    bases = [flat(s.sweep.base_data) for s in sweeps]
    keys = sorted({key for base in bases for key in base})
    values = {key: [base.get(key, "absent") for base in bases] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def words(sweeps: Sequence[Material]) -> list[str]:
    """What is common and what is not."""
    keys = [set(s.sweep.config.space) for s in sweeps]
    common = sorted(set.intersection(*keys))
    lines = [f"swept in all: {', '.join(common) if common else 'no key'}"]
    for sweep, own in zip(sweeps, keys, strict=True):
        if own - set(common):
            lines.append(f"swept in {sweep.name} besides: {', '.join(sorted(own - set(common)))}")
    found = {key: values for key, values in base_differences(sweeps).items() if key != "training.epochs"}
    lines += [f"bases differ in {key}: {', '.join(values)}" for key, values in list(found.items())[:SHOWN]]
    lines += [f"and in {len(found) - SHOWN} keys more"] if len(found) > SHOWN else []
    why = obstacles(sweeps)
    if why:
        return [*lines, "The objectives do not compare:", *(f"  {reason}" for reason in why)]
    lines.append(
        "The objectives compare: the metric is the same, so are its images, its evaluation and the epochs."
    )
    return [*lines, *(_against(sweep, sweeps[0], len(sweeps) - 1) for sweep in sweeps[1:])]


def first_finalist(sweep: Material) -> Confirmed | None:
    """Of the configs that were run again the one that the search put first.

    Not the one with the best mean: the best of several means is too good on average, as a search's best is.
    """
    found = sweep.findings.confirmation
    configs = {config.trial: config for config in (found.configs if found else ())}
    return next((configs[r.number] for r in sweep.ranking if r.number in configs), None)


def _against(sweep: Material, other: Material, compared: int) -> str:
    """Which of two sweeps found the better config, as far as fresh seeds tell."""
    own, theirs = first_finalist(sweep), first_finalist(other)
    values = [list(config.values.values()) if config else [] for config in (own, theirs)]
    found = difference(values[0], values[1], compared)
    if own is None or theirs is None or found is None:
        few = [s.name for s, v in zip((sweep, other), values, strict=True) if len(v) < 2]
        why = f"has no two fresh seeds in {' and in '.join(few)}" if few else "has no spread over fresh seeds"
        return (
            f"Whether {sweep.name} found better than {other.name} is not claimed: what was best of many "
            f"trials is no estimate, and the first finalist {why}."
        )
    gain, low, high = found
    corrected = f", corrected for {compared} compared" if compared > 1 else ""
    value, lowest, highest = signs(gain, low, high)
    seen = (
        f"the first finalist of {sweep.name} less that of {other.name}: {sweep.metric} {value} "
        f"(95% interval {lowest} to {highest} by {len(values[0])} and {len(values[1])} fresh "
        f"seeds{corrected})"
    )
    if low <= 0 <= high:
        return f"No difference shown, {seen}."
    winner, config = (sweep, own) if gain * sweep.sign > 0 else (other, theirs)
    if config.lost:
        return f"Not confirmed, for the survivors of {winner.name} only ({lost_runs(config)}), {seen}."
    return f"{winner.name} found better, {seen}."


def _best(sweep: Material) -> str:
    if sweep.best is None:
        return NONE
    return f"{number(sweep.value(sweep.best))} (trial {sweep.best.id}, best of {len(sweep.ranking)})"


def _base(sweep: Material) -> str:
    found = sweep.findings.confirmation
    return _mean(found.base) if found else NONE


def _finalist(sweep: Material) -> str:
    best = first_finalist(sweep)
    return f"{_mean(best)} (trial {best.trial:04d})" if best is not None and best.mean is not None else NONE


def _mean(config: Confirmed) -> str:
    found, lost = config.interval, f"; survivors only: {lost_runs(config)}" if config.lost else ""
    reach = f", {number(found.low)} to {number(found.high)}" if found else ""
    return f"{number(config.mean)}{reach}{lost}"
