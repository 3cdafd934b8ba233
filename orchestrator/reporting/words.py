"""The summary of a report: what was found, in sentences."""

from collections.abc import Sequence

from orchestrator.analysis.findings import Effect, Findings, Level
from orchestrator.reporting.caption import number
from orchestrator.reporting.material import Material
from orchestrator.reporting.sentences import effects, estimate, verdicts


def summary(material: Material) -> list[str]:
    """The answer first; an indented line belongs to the one above it."""
    if not material.ranking:
        return ["No trial has come to an end with a value yet, so there is nothing to compare."]
    findings = material.findings
    return [
        *verdicts(findings, material.sweep.config.confirm.top_k),
        *_search(material),
        *_references(material),
        *effects(findings),
        *_stopping(findings),
        *_losses(findings),
    ]


def _search(material: Material) -> list[str]:
    best, base = material.best, material.base
    assert best is not None
    whose = "the base config itself" if best.role == "base" else f"trial {best.id}"
    reached = f"{material.metric} {number(material.value(best))} after epoch {material.epochs(best)}"
    lines = [
        f"The best of the search is {whose}: {reached}. It was chosen for being high, so it is no estimate.",
    ]
    if base is not None and base is not best and base.last(material.metric):
        reached = f"{number(material.value(base))} after epoch {material.epochs(base)}"
        lines.append(f"The base config reached {reached} in the search.")
    return lines


def _references(material: Material) -> list[str]:
    found = [f"{words} {number(value)}" for words, value in material.references().items()]
    return [f"To compare, without learning: {', '.join(found)}."] if found else []


def _stopping(findings: Findings) -> list[str]:
    stopping = findings.stopping
    if stopping is None or not stopping.stopped:
        return []
    first = f"{stopping.stopped} trials were stopped early and {stopping.completed} ran to the end."
    if stopping.regret is None:
        return [f"{first} Too few were let live to say what stopping has cost."]
    return [
        f"{first} The best of the stopped ones is expected to have been better than the best found by "
        f"{estimate(stopping.regret)}, as far as {stopping.regret.count} trials tell."
    ]


def _losses(findings: Findings) -> list[str]:
    parts = [
        f"{findings.outcomes[name]} {name}" for name in ("collapsed", "failed") if findings.outcomes.get(name)
    ]
    return [f"Of all trials, {' and '.join(parts)}."] if parts else []


def shown_levels(effect: Effect) -> Sequence[Level]:
    """The levels of a key that somebody tried."""
    return [level for level in effect.levels if level.effect is not None or level.is_reference]
