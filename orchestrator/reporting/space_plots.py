"""Figures of the space: what every trial was made of, and what pairs of choices make together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from orchestrator.reporting.caption import counted, short, told_apart
from orchestrator.reporting.curves import sample
from orchestrator.reporting.material import Material
from orchestrator.reporting.style import MUTED, ON_SHADES, PAPER, SHADES, TEXT, canvas, fifth_of
from orchestrator.space.distribution import label
from orchestrator.study.record import TrialRecord

CATEGORICAL = ("choice", "grid_search")


def parallel_coordinates(material: Material) -> Figure | None:
    """Each trial a line through its values, in shades of its rank; None without a trial of a value."""
    trials = [record for record in sample(material.ranking) if material.values_of(record)]
    if not trials:
        return None
    rows = [row for key in material.sweep.config.space for row in _rows(material, key)]
    figure, axes = canvas(max(3.4, 0.55 * (len(rows) + 1) + 0.6))
    found = [material.value(record) for record in material.ranking]
    last = Scale.of_numbers([v for v in found if math.isfinite(v)], log=False)
    places = {record.number: place for place, record in enumerate(material.ranking)}
    lines, colours = [], []
    for record in reversed(trials):
        values = material.values_of(record)
        xs = [*(row.place(values) for row in rows), last.place(material.value(record))]
        lines.append([(x, -height) for height, x in enumerate(xs)])
        colours.append(SHADES[4 - min(4, 5 * places[record.number] // len(material.ranking))])
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.4, alpha=0.9))
    for height, scale in enumerate([*(row.scale for row in rows), last]):
        _axis(axes, -height, scale)
    names = [row.name for row in rows]
    axes.set_yticks([-height for height in range(len(rows) + 1)], [*names, material.metric])
    axes.set(xlim=(-0.12, 1.06), ylim=(-len(rows) - 0.5, 0.45), xticks=[])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


@dataclass(frozen=True)
class _Row:
    """A key's axis, or that of one of its weights."""

    name: str
    key: str
    scale: "Scale"
    weight: int | None = None

    def place(self, values: Mapping[str, Any]) -> float:
        """Where a trial's line crosses it; left of it where the trial has no value."""
        if self.key not in values:
            return -0.07
        value = values[self.key]
        return self.scale.place(value if self.weight is None else value[self.weight])


def _rows(material: Material, key: str) -> list[_Row]:
    """The axes of a key: one, of a list of weights one for each, all from 0 to 1."""
    space = material.sweep.config.space
    name, size = short(key, list(space)), space[key].simplex
    if size is None:
        return [_Row(name, key, Scale.of(material, key))]
    share = Scale.of_numbers((0.0, 1.0), log=False)
    return [_Row(f"{name}[{weight}]", key, share, weight) for weight in range(size)]


class Scale:
    """Where values stand on an axis from 0 to 1, and what is written along it."""

    def __init__(self, ticks: Sequence[tuple[float, str]], numbers: tuple[float, float] | None, log: bool):
        self.ticks, self._numbers, self._log = ticks, numbers, log
        self._places = {text: place for place, text in ticks}

    @classmethod
    def of(cls, material: Material, key: str) -> "Scale":
        """The scale of a swept key: its choices evenly, or its numbers from the least to the greatest; where
        no trial has one, its whole range."""
        distribution = material.sweep.config.space[key]
        if distribution.kind in CATEGORICAL and distribution.points is not None:
            texts = [label(point) for point in distribution.points]
            step = 1 / max(1, len(texts) - 1)
            return cls([(i * step, text) for i, text in enumerate(texts)], None, False)
        trials = [material.values_of(record) for record in material.searched]
        numbers = [float(values[key]) for values in trials if key in values]
        return cls.of_numbers(numbers or distribution.ends, log=distribution.kind.startswith("log"))

    @classmethod
    def of_numbers(cls, numbers: Sequence[float], log: bool) -> "Scale":
        """A scale from the least to the greatest of `numbers`."""
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        scale = cls([], (low, high), log)
        marked = (low, _middle(low, high, log), high)
        scale.ticks = list(zip(map(scale.place, marked), told_apart(*marked), strict=True))
        return scale

    def place(self, value: Any) -> float:
        """Where a value stands."""
        if self._numbers is None:
            return self._places[label(value)]
        low, high = self._numbers
        if self._log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)


def _middle(low: float, high: float, log: bool) -> float:
    return math.sqrt(low * high) if log else (low + high) / 2


def _axis(axes: Axes, height: float, scale: Scale) -> None:
    axes.plot([0, 1], [height, height], color=MUTED, linewidth=0.8, zorder=0)
    for place, text in scale.ticks:
        axes.plot(place, height, "|", color=TEXT, ms=5)
        side = "left" if place < 0.01 else "right" if place > 0.99 else "center"
        axes.annotate(
            text if len(text) <= 22 else f"{text[:21]}…",
            (place, height),
            (0, -6),
            textcoords="offset points",
            ha=side,
            va="top",
            fontsize=8,
            color=TEXT,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
        )


def telling_pair(material: Material, order: Sequence[str] = ()) -> tuple[str, str] | None:
    """The two keys of choices to set against each other: the first ones of `order`, else of the space.

    Two of which one is there only for some values of the other make no table.
    """
    space = material.sweep.config.space
    keys = [key for key in space if space[key].kind in CATEGORICAL and space[key].points is not None]
    keys.sort(key=lambda key: order.index(key) if key in order else len(order))
    pairs = [(keys[i], keys[j]) for j in range(len(keys)) for i in range(j)]
    crossed = [pair for pair in pairs if not _depends(space, *pair) and not _depends(space, *pair[::-1])]
    return next(iter(crossed), None)


def _depends(space: Any, key: str, parent: str) -> bool:
    return parent in (space[key].when or {})


def heat_map(material: Material, pair: tuple[str, str]) -> Figure | None:
    """Mean objective of each combination of two keys' choices at the first rung, and the trials behind it."""
    cells = cells_of(material, pair)
    if not cells:
        return None
    rows, columns = (
        [label(point) for point in material.sweep.config.space[key].points or []] for key in pair
    )
    figure, axes = canvas(1.3 + 0.62 * len(rows))
    means = [sum(values) / len(values) for values in cells.values()]
    for (row, column), values in cells.items():
        mean = sum(values) / len(values)
        shade = fifth_of(mean, means, material.sign)
        x, y = columns.index(column), rows.index(row)
        axes.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], color=SHADES[shade], ec=PAPER, lw=2)
        axes.text(x + 0.5, y + 0.4, f"{mean:.4g}", ha="center", va="center", color=ON_SHADES[shade])
        count = counted(len(values), "trial")
        axes.text(x + 0.5, y + 0.7, count, ha="center", va="center", color=ON_SHADES[shade], fontsize=8)
    names = [short(key, list(material.sweep.config.space)) for key in pair]
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns)
    axes.set(xlabel=names[1], ylabel=names[0], xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def cells_of(material: Material, pair: tuple[str, str]) -> dict[tuple[str, str], list[float]]:
    """Objectives at the first rung by the labels of two keys' values. Every trial gets that far."""
    epoch, metric = first_rung(material), material.metric
    found: dict[tuple[str, str], list[float]] = {}
    for record in material.searched:
        values = material.values_of(record)
        if all(key in values for key in pair) and metric in record.reports.get(epoch, {}):
            cell = label(values[pair[0]]), label(values[pair[1]])
            found.setdefault(cell, []).append(record.reports[epoch][metric])
    return found


def first_rung(material: Material) -> int:
    """The epoch that every trial reaches, whatever ASHA thinks of it."""
    return next(iter(material.sweep.rungs), material.sweep.max_epochs)


def outcome_of(record: TrialRecord) -> str:
    """How a trial ended, or that it has not."""
    return record.outcome or "not over"
