"""Figures of what one thing costs in another: objectives against each other, and against time."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from orchestrator.analysis.front import front
from orchestrator.reporting.curves import sample
from orchestrator.reporting.material import Material
from orchestrator.reporting.style import BASE, FRONT, MUTED, canvas, stack
from orchestrator.study.record import TrialRecord


def objectives(material: Material) -> Figure | None:
    """The first of several objectives against each of the others, with the trials that none beats in all."""
    first, *others = metrics = material.sweep.config.objective.metrics
    completed = [r for r in material.ranking if r.outcome == "completed" and r.figures(metrics)]
    if not others or not completed:
        return None
    unbeaten, base = front(material.records, metrics), [material.base] if material.base else []
    looks: list[tuple[Sequence[TrialRecord], dict[str, Any]]] = [
        (sample(completed), {"marker": "o", "color": MUTED, "ms": 5, "alpha": 0.55, "label": "completed"}),
        (unbeaten, {"marker": "D", "color": FRONT, "ms": 5, "label": "none beats it in all"}),
        (base, {"marker": "s", "mfc": "none", "mec": BASE, "ms": 8, "mew": 2, "label": "base config"}),
    ]
    figure, panels = stack(2.4, len(others))
    for axes, other in zip(panels, others, strict=True):
        for records, look in looks:
            points = [point for record in records if (point := record.figures([other, first]))]
            axes.plot([x for x, _ in points], [y for _, y in points], linestyle="none", **look)
        axes.set(xlabel=other, ylabel=first)
        axes.grid(axis="y")
    panels[-1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    return figure


def cost_and_quality(material: Material) -> Figure | None:
    """What each full trial took against what it reached, with those that nothing beats in both."""
    found = {record.number: cost for record in material.full if (cost := cost_s(record)) is not None}
    shown = [record for record in sample(material.full) if record.number in found]
    if not shown:
        return None
    figure, axes = canvas(3.3)
    points = [(found[record.number], material.value(record)) for record in shown]
    axes.plot(*zip(*points, strict=True), "o", color=MUTED, ms=5, alpha=0.55, label="ran all epochs")
    front = pareto_front(material)
    costs, values = zip(*((found[r.number], material.value(r)) for r in front), strict=True)
    axes.plot(
        costs, values, "-D", color=FRONT, ms=5, drawstyle="steps-post", label="nothing beats it in both"
    )
    if material.base is not None and material.base.number in found:
        at = found[material.base.number], material.value(material.base)
        axes.plot(*at, "s", ms=8, mfc="none", mec=BASE, mew=2, linestyle="none", label="base config")
    axes.set(xlabel="seconds of training for all epochs", ylabel=material.metric)
    axes.grid(axis="y")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def pareto_front(material: Material) -> list[TrialRecord]:
    """Of the trials that ran all epochs, those that no other beats in cost and quality, cheapest first."""
    costs = {record.number: cost for record in material.full if (cost := cost_s(record)) is not None}
    cheapest_first = sorted(
        (record for record in material.full if record.number in costs),
        key=lambda record: (costs[record.number], -material.sign * material.value(record)),
    )
    front: list[TrialRecord] = []
    for record in cheapest_first:
        if not front or material.sign * material.value(record) > material.sign * material.value(front[-1]):
            front.append(record)
    return front


def cost_s(record: TrialRecord) -> float | None:
    """Seconds that its epochs took, as its process measured them; None where one was not measured."""
    times = [metrics.get("time/epoch_s") for metrics in record.reports.values()]
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None
