"""Figures of trials over epochs, against their cost, and over seeds."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.confirm import seeds_of
from orchestrator.analysis.intervals import far_out, interval
from orchestrator.reporting.material import Material
from orchestrator.reporting.sentences import lost_runs
from orchestrator.reporting.style import BASE, BEST, GRID, MUTED, PAPER, TEXT, canvas
from orchestrator.study.record import TrialRecord

DRAWN = 400
"""Trials that a drawing shows at most; of more, every so manieth of the ranking."""


def learning_curves(material: Material) -> Figure | None:
    """The objective of every trial by epoch, with the rungs; None where nothing was reported."""
    shown = sample(material.searched)
    if not shown:
        return None
    figure, axes = canvas(3.5)
    for rung in material.sweep.rungs:
        axes.axvline(rung, color=GRID, linewidth=1, zorder=0)
    low, high = usual_values(material) or (-math.inf, math.inf)

    def usual(record: TrialRecord) -> list[tuple[float, float]]:
        return [point for point in _curve(material, record) if not (point[1] < low or point[1] > high)]

    curves = [usual(record) for record in shown]
    drawn = [curve for curve in curves if curve]
    axes.add_collection(LineCollection(drawn, colors=MUTED, linewidths=0.7, alpha=_faint(len(drawn))))
    stopped = [c[-1] for record, c in zip(shown, curves, strict=True) if c and record.outcome == "pruned"]
    if stopped:
        axes.plot(*zip(*stopped, strict=True), ".", color=MUTED, ms=4, alpha=0.7, label="stopped early")
    for record, colour, style, label in (
        (material.base, BASE, "--", "base config"),
        (material.best, BEST, "-", "best of the search"),
    ):
        if record is not None and (curve := usual(record)):
            axes.plot(*zip(*curve, strict=True), style, color=colour, label=label, marker="o", ms=2.5)
    for number, (words, value) in enumerate(material.references().items()):
        axes.axhline(value, color=MUTED, linestyle=(":", "-.", "--")[number % 3], linewidth=1, label=words)
    axes.autoscale_view()
    axes.set(xlabel="epoch", ylabel=material.metric, xlim=(0.5, material.sweep.max_epochs + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return figure


def usual_values(material: Material) -> tuple[float, float] | None:
    """Between what the learning curves lie but for values far from all others; None where there are none."""
    found = [value for record in sample(material.searched) for _, value in _curve(material, record)]
    values_N = np.array([value for value in found if math.isfinite(value)])
    far_N = far_out(values_N) if len(values_N) else values_N
    if not far_N.any():
        return None
    return float(values_N[~far_N].min()), float(values_N[~far_N].max())


def _curve(material: Material, record: TrialRecord) -> list[tuple[float, float]]:
    return [
        (epoch, metrics[material.metric])
        for epoch, metrics in sorted(record.reports.items())
        if material.metric in metrics
    ]


def seeds(material: Material) -> Figure | None:
    """The runs with fresh seeds, those of one seed joined, with mean and interval; None where none is."""
    runs = {r.number: seeds_of(material.records, r, material.metric) for r in material.confirmed}
    shown = [record for record in material.confirmed if runs[record.number]]
    if not shown:
        return None
    figure, axes = canvas(3.3)
    places = {record.number: place for place, record in enumerate(shown)}
    for seed in sorted({seed for found in runs.values() for seed in found}):
        paired = [(places[r.number] - 0.12, runs[r.number][seed]) for r in shown if seed in runs[r.number]]
        axes.plot(*zip(*paired, strict=True), "-o", color=MUTED, linewidth=0.8, ms=4.5, alpha=0.8)
    for record in shown:
        _mean(axes, places[record.number] + 0.12, list(runs[record.number].values()), record.role == "base")
        searched = material.value(record)
        axes.plot(places[record.number] + 0.12, searched, "x", color=TEXT, ms=6, mew=1.4, linestyle="none")
    axes.set_xticks(range(len(shown)), [_named(material, record) for record in shown])
    axes.set(xlim=(-0.6, len(shown) - 0.4), ylabel=material.metric)
    axes.grid(axis="y")
    return figure


def _named(material: Material, record: TrialRecord) -> str:
    """A config, and how many of its runs are not among the dots."""
    found = material.findings.confirmation
    configs = (found.base, *found.configs) if found else ()
    lost = [f"\n{lost_runs(c)}" for c in configs if c.trial == record.number and c.lost]
    return ("base config" if record.role == "base" else f"trial {record.id}") + "".join(lost)


def _mean(axes: Axes, place: float, values: Sequence[float], is_base: bool) -> None:
    colour = BASE if is_base else BEST
    found = interval(values) if len(values) > 1 else None
    if found is None:
        return
    reach = found.high - found.value
    axes.errorbar(place, found.value, reach, fmt="s", color=colour, ms=7, capsize=5, mec=PAPER)


def sample(records: Sequence[TrialRecord], limit: int = DRAWN) -> list[TrialRecord]:
    """`records`, or evenly many of them where a drawing of all would be a blot; the first stays."""
    if len(records) <= limit:
        return list(records)
    return [records[i * len(records) // limit] for i in range(limit)]


def _faint(count: int) -> float:
    return max(0.12, min(0.6, 12 / max(1, count)))
