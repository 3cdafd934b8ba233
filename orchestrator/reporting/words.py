"""The summary of a report: what was found, in sentences."""

from orchestrator.reporting.caption import number
from orchestrator.reporting.material import Material
from orchestrator.reporting.sentences import effects, losses, stopping, verdicts


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
        *stopping(findings),
        *losses(findings),
    ]


def _search(material: Material) -> list[str]:
    best, base = material.best, material.base
    assert best is not None
    whose = "the base config itself" if best.role == "base" else f"trial {best.id}"
    reached = f"{material.metric} {number(material.value(best))} after epoch {material.epochs(best)}"
    lines = [
        f"The best of the search is {whose}: {reached}. It was chosen for being the best, so it is no "
        "estimate.",
    ]
    if base is not None and base is not best and base.last(material.metric):
        reached = f"{number(material.value(base))} after epoch {material.epochs(base)}"
        lines.append(f"The base config reached {reached} in the search.")
    return lines


def _references(material: Material) -> list[str]:
    found = [f"{words} {number(value)}" for words, value in material.references().items()]
    return [f"To compare, without learning: {', '.join(found)}."] if found else []
