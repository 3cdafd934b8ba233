"""What was found, in sentences: the same ones on the page and on the terminal.

A line that is indented belongs to the one above it.
"""

from orchestrator.analysis.findings import (
    STRAIGHT,
    Confirmation,
    Confirmed,
    Effect,
    Effects,
    Estimate,
    Findings,
    Nested,
)
from orchestrator.reporting.caption import counted, number, signs

TOLD = 6
"""Keys whose effects are told at least; all whose effect is shown are."""
LEVELS = 3
"""Values of a key that are told at most: those whose effect is shown first, and of them the strongest."""
SAME = 1e-12
"""A difference that sums of floats leave where there is none."""

ONE_SPLIT = "on one set of validation images: what another set would change is not in them"


def verdicts(findings: Findings, asked: int) -> list[str]:
    """What the fresh seeds say; `asked`: the configs that are to be run with them."""
    found = findings.confirmation
    if found is not None and not found.configs:
        why = "no config of the search has been run with fresh seeds, the base config alone has"
        return [f"Nothing is confirmed: {why}.", _base(found.base)]
    if found is None:
        why = "have not been run yet" if asked else "were not asked for (`confirm:` in the space)"
        return [
            f"Nothing is confirmed: runs with fresh seeds {why}, and what follows are figures of the search."
        ]
    lines = [line for config in found.configs for line in _verdict(config, found, findings.metric)]
    if any(config.interval is not None for config in (found.base, *found.configs)):
        lines.append(_base(found.base))
        if sum(config.p is not None for config in found.configs) > 1:
            lines.append(
                "The intervals of differences are so wide that in 95% of sweeps all of them hold; that of "
                "the base's mean is its own."
            )
        lines.append(f"These intervals are over training seeds, {ONE_SPLIT}.")
        return lines
    return [*lines, _base(found.base)]


def _verdict(config: Confirmed, found: Confirmation, metric: str) -> list[str]:
    details = [f"  {key}: {label}" for key, label in config.labels.items()]
    if config.mean is not None and found.base.mean is not None:
        means = f"mean {number(config.mean)}{_survivors(config)}"
        details.append(f"  {means}; base config {number(found.base.mean)}{_survivors(found.base)}")
    if config.search_value is not None:
        why = "of a trial that was chosen for its figure, so no estimate"
        details.append(f"  in the search: {number(config.search_value)}, {why}")
    return [_head(config, found, metric), *details]


def _head(config: Confirmed, found: Confirmation, metric: str) -> str:
    name = f"trial {config.trial:04d}"
    if config.verdict == "no spread" and config.gain is not None:
        seen = f"differs from the base config by {metric} {signs(config.gain)[0]} with every fresh seed alike"
        if abs(config.gain) < SAME:
            seen = f"has the same {metric} as the base config with every fresh seed"
        return (
            f"{name.capitalize()} {seen}: without any spread there is neither interval nor p, and nothing is "
            "claimed."
        )
    if config.together is None or config.verdict in (None, "too few runs"):
        far = " so far" if len(config.values) + config.lost < config.asked else ""
        lost = f" ({lost_runs(config)})" if config.lost else ""
        return f"Of {name} too few runs with fresh seeds came to an end{far} to say anything{lost}."
    compared = sum(other.p is not None for other in found.configs)
    corrected = f", both corrected for {compared} compared" if compared > 1 else ""
    seen = f"{metric} {signed(config.together)}, p = {config.p_together:.2g}"
    seen += f" by {config.together.count} shared fresh seeds{corrected}"
    match config.verdict:
        case "survivors only":
            named = ((name, config), ("the base config", found.base))
            lost = " and ".join(f"of the runs of {whose} {lost_runs(c)}" for whose, c in named if c.lost)
            return (
                f"No difference between {name} and the base config is confirmed: {lost}; "
                f"what is seen, {seen}, is of survivors only."
            )
        case "no difference shown":
            least = "" if config.detectable is None else f" {_detectable(config.detectable)}"
            return f"No difference was shown between {name} and the base config: {seen}.{least}"
        case verdict:
            return f"{name.capitalize()} is {verdict} than the base config: {seen}."


def _detectable(least: float) -> str:
    return f"A true difference of {number(least)} or more would have been shown with 80% power."


def _base(base: Confirmed) -> str:
    if base.interval is None:
        lost = f" ({lost_runs(base)})" if base.lost else ""
        why = "no spread between its" if len(base.values) > 1 else "too few"
        return f"The base config has {why} runs with fresh seeds to give an interval{lost}."
    count = base.interval.count
    return (
        f"The base config has a mean of {estimate(base.interval)} by {count} fresh seeds{_survivors(base)}."
    )


def lost_runs(config: Confirmed) -> str:
    """How many of a config's runs gave no value, and why: `1 of 5 failed, 2 of 5 collapsed`."""
    counts = ((config.failed, "failed"), (config.collapsed, "collapsed"))
    return ", ".join(f"{count} of {config.asked} {how}" for count, how in counts if count)


def _survivors(config: Confirmed) -> str:
    return f" (survivors only: {lost_runs(config)})" if config.lost else ""


def estimate(found: Estimate) -> str:
    """A value with its interval."""
    return f"{number(found.value)} (95% interval {number(found.low)} to {number(found.high)})"


def signed(found: Estimate) -> str:
    """A difference with its interval."""
    return _ranged(found, "95% interval ")


def effects(findings: Findings) -> list[str]:
    """What each key does, the surest first."""
    found = findings.effects
    tested = [effect for effect in found.keys if effect.p_together is not None]
    tested.sort(key=lambda effect: (effect.p_together, effect.p, effect.key))
    if not tested:
        return [*nested(findings), *([found.note] if found.note else [])]
    told = max(TOLD, sum(effect.shown for effect in tested))
    lines = [
        f"What each key does to {judged(findings)} at epoch {found.epoch}{at_seed(found)}, all else equal:",
        *(f"  {_effect(effect)}" for effect in tested[:told]),
    ]
    if tested[told:]:
        lines.append(f"  no effect shown of {', '.join(effect.key for effect in tested[told:])}")
    lines.append(
        "The intervals are so wide that in 95% of sweeps all of them hold, that of the largest effect too. "
        f"They are {'' if found.seed is None else 'of that seed and '}{ONE_SPLIT}."
    )
    if any(not effect.shown for effect in tested):
        lines.append("An effect that is not shown may still be there, anywhere within its interval.")
    lines += [note for note in (straight_lines(found), found.note) if note]
    return lines + nested(findings)


def judged(findings: Findings) -> str:
    """The metric, and that less of it is better, where it is."""
    return f"{findings.metric} (less is better)" if findings.mode == "min" else findings.metric


def _effect(effect: Effect) -> str:
    trials = f"{counted(effect.trials, 'trial')}{'' if effect.shown else '; not shown'}"
    known = [(level, level.together) for level in effect.levels if level.together is not None]
    if not known:
        return f"{effect.key}: p = {effect.p_together:.2g} of all its weights; {trials}"
    known.sort(key=lambda pair: (not pair[0].shown, -abs(pair[1].value)))
    told = [f"{level.label} {_ranged(together)}" for level, together in known[:LEVELS]]
    return f"{effect.key} against {effect.reference}: {', '.join(told)}; {trials}"


def _ranged(found: Estimate, what: str = "") -> str:
    value, low, high = signs(found.value, found.low, found.high)
    return f"{value} ({what}{low} to {high})"


def nested(findings: Findings) -> list[str]:
    """Which keys determine others, and what can be compared all the same: plain means."""
    lines = []
    for found in findings.effects.nested:
        lines.append(
            f"{determined(found)} Plain means of {findings.metric} at epoch {findings.effects.common_epoch}:"
        )
        for group in found.groups:
            best = sorted(group.cells, key=lambda cell: -cell[1] if findings.mode == "max" else cell[1])
            told = [f"{label} {number(mean)} ({counted(trials, 'trial')})" for label, mean, trials in best]
            where = ", ".join(f"{key} {label}" for key, label in zip(found.within, group.labels, strict=True))
            mean = f" {number(group.mean)} on average:" if len(group.cells) > 1 else ""
            lines.append(f"  {where}:{mean} {', '.join(told)}")
    return lines


def determined(found: Nested) -> str:
    """That a key's value leaves others no choice, and what is therefore compared with what."""
    others = " and ".join(found.within)
    return (
        f"Since {found.key} determines {others}, no two trials can differ in {others} alone: each value of "
        f"{found.key} is compared with the mean of those with the same {others}, and values of {others} "
        "are compared by these means, in which each counts once."
    )


def at_seed(found: Effects) -> str:
    """That other seeds are not in the effects, where they are not."""
    return "" if found.seed is None else f" and at training seed {found.seed} only"


def straight_lines(found: Effects) -> str:
    """Of which keys only a straight line could be told; empty where of none."""
    keys = [effect.key for effect in found.keys if effect.straight and effect.p is not None]
    return f"The effect of {', '.join(keys)} is {STRAIGHT}." if keys else ""


def stopping(findings: Findings) -> list[str]:
    """What early stopping may have cost."""
    found = findings.stopping
    if found is None or not found.stopped:
        return []
    was = "was" if found.stopped == 1 else "were"
    first = f"{counted(found.stopped, 'trial')} {was} stopped early and {found.completed} ran to the end."
    ranks = [
        f"  epoch {rung.epoch} ranked trials as the end did by {r.value:.2f} (95% interval {r.low:.2f} to "
        f"{r.high:.2f}; Spearman, 1 is the same order; {counted(r.count, 'trial')} that went on)"
        for rung in found.rungs
        if (r := rung.spearman) is not None
    ]
    if found.regret is None:
        return [f"{first} Too few went on to say what stopping has cost.", *ranks]
    return [
        f"{first} What that may have cost, the regret: had none been stopped, the best of them would "
        f"have been better than the best found by {estimate(found.regret)}, as far as "
        f"{counted(found.regret.count, 'trial')} that ran to the end can tell.",
        *ranks,
    ]


def losses(findings: Findings) -> list[str]:
    """Trials that gave no value to their end."""
    parts = [f"{n} {how}" for how in ("collapsed", "failed") if (n := findings.outcomes.get(how))]
    return [f"Of all trials, {' and '.join(parts)}."] if parts else []
