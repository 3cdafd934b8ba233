"""The summary of a report: what was found, in sentences."""

from collections.abc import Sequence

from orchestrator.analysis.findings import Confirmed, Effect, Estimate, Findings, Level
from orchestrator.reporting.material import Material
from orchestrator.reporting.tables import label_of, number

TOLD = 6
"""Keys whose effect the summary tells at most."""


def summary(material: Material) -> list[str]:
    """The answer first; an indented line belongs to the one above it."""
    if not material.ranking:
        return ["No trial has come to an end with a value yet, so there is nothing to compare."]
    findings = material.findings
    return [
        *_verdicts(material, findings),
        *_search(material, findings),
        *_references(material),
        *_effects(findings),
        *_stopping(findings),
        *_losses(findings),
    ]


def _verdicts(material: Material, findings: Findings) -> list[str]:
    """What the fresh seeds say."""
    found = findings.confirmation
    if found is None or not found.configs:
        asked = material.sweep.config.confirm.top_k
        why = "have not been run yet" if asked else "were not asked for (`confirm:` in the space)"
        return [
            f"Nothing is confirmed: runs with fresh seeds {why}, and what follows are figures of the search."
        ]
    if found.base.interval is None:
        base = "the base has too few runs yet to give an interval"
    else:
        base = (
            f"the base config has a mean of {_estimate(found.base.interval)} over {found.base.interval.count}"
        )
    return [line for config in found.configs for line in _verdict(config, material)] + [
        f"With its own fresh seeds {base}."
    ]


def _verdict(config: Confirmed, material: Material) -> list[str]:
    name, gain = f"Trial {config.trial:04d}", config.difference
    values = material.trial(str(config.trial)).values
    shown = [f"  {key}: {label_of(value)}" for key, value in values.items()]
    if gain is None or config.verdict in (None, "too few runs"):
        ended = "came to an end" if material.state == "finished" else "have come to an end so far"
        return [f"{name} is run again, but too few of its runs {ended} to say anything.", *shown]
    unit = f"{material.metric} {_signed(gain)} against the base over {gain.count} shared seeds"
    p = f", p = {config.p_holm:.2g} after Holm's correction" if config.p_holm is not None else ""
    if config.verdict == "no difference shown":
        first = f"No difference was shown between trial {config.trial:04d} and the base config: {unit}{p}."
        return [f"{first}{_detectable(config)}", *shown]
    return [f"{name} is {config.verdict} than the base config: {unit}{p}.", *shown]


def _detectable(config: Confirmed) -> str:
    if config.detectable is None:
        return ""
    least = number(config.detectable)
    return f" The smallest difference that these runs would have shown with 80% power is {least}."


def _search(material: Material, findings: Findings) -> list[str]:
    best, base = material.best, material.base
    assert best is not None
    whose = "the base config itself" if best.role == "base" else f"trial {best.id}"
    reached = f"{material.metric} {number(material.value(best))} after epoch {material.epochs(best)}"
    lines = [
        f"The best of the search is {whose}: {reached}. It was chosen for being high, so it is no estimate.",
        *(
            f"  Trial {c.trial:04d}: {number(c.search_value)} there, {number(c.mean)} with fresh seeds."
            for c in (findings.confirmation.configs if findings.confirmation else ())
            if c.shrinkage is not None
        ),
    ]
    if base is not None and base is not best and base.last(material.metric):
        reached = f"{number(material.value(base))} after epoch {material.epochs(base)}"
        lines.append(f"The base config reached {reached} in the search.")
    return lines


def _references(material: Material) -> list[str]:
    found = [f"{words} {number(value)}" for words, value in material.references().items()]
    return [f"To compare, without learning: {', '.join(found)}."] if found else []


def _effects(findings: Findings) -> list[str]:
    effects = findings.effects
    if not effects.keys:
        return [f"No effects of single keys: {effects.note}."] if effects.note else []
    sure = [key for key in effects.keys if key.p_holm is not None and key.p_holm < 0.05]
    unsure = [key.key for key in effects.keys if key not in sure]
    lines = [
        _effect_words(key, findings.metric) for key in sorted(sure, key=lambda key: key.p_holm or 0)[:TOLD]
    ]
    if lines:
        lines = [
            f"Keys that matter, all else equal, at epoch {effects.epoch}:",
            *(f"  {line}" for line in lines),
        ]
    if unsure:
        lines.append(f"No effect shown of {', '.join(unsure)}. That is not proof of none: see the intervals.")
    return lines


def _effect_words(effect: Effect, metric: str) -> str:
    if effect.trend is not None and effect.straight:
        how = f"{metric} {_signed(effect.trend)} per {effect.trend_unit} by a straight line"
    else:
        told = [
            f"{level.label} {_signed(level.effect)}" for level in effect.levels if level.effect is not None
        ]
        how = f"against {effect.reference}: {'; '.join(told)}"
    return f"{effect.key}, {how}"


def _stopping(findings: Findings) -> list[str]:
    stopping = findings.stopping
    if stopping is None or not stopping.stopped:
        return []
    first = f"{stopping.stopped} trials were stopped early and {stopping.completed} ran to the end."
    if stopping.regret is None:
        return [f"{first} Too few were let live to say what stopping has cost."]
    return [
        f"{first} The best of the stopped ones is expected to have been better than the best found by "
        f"{_estimate(stopping.regret)}, as far as {stopping.regret.count} trials tell."
    ]


def _losses(findings: Findings) -> list[str]:
    parts = [
        f"{findings.outcomes[name]} {name}" for name in ("collapsed", "failed") if findings.outcomes.get(name)
    ]
    return [f"Of all trials, {' and '.join(parts)}."] if parts else []


def shown_levels(effect: Effect) -> Sequence[Level]:
    """The levels of a key that somebody tried."""
    return [level for level in effect.levels if level.effect is not None or level.is_reference]


def _estimate(found: Estimate) -> str:
    return f"{number(found.value)} (95% interval {number(found.low)} to {number(found.high)})"


def _signed(found: Estimate) -> str:
    return f"{found.value:+.4f} (95% interval {found.low:+.4f} to {found.high:+.4f})"
