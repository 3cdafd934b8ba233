"""Figures and tables of what the analysis found: effects, importance, and how well rungs told the end."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.findings import Confirmed, Effect, Estimate, Findings, Level, Nested
from orchestrator.reporting.caption import NONE, counted, number, short, signs
from orchestrator.reporting.sentences import at_seed, determined, judged, lost_runs, straight_lines
from orchestrator.reporting.style import BEST, FRONT, GRID, MUTED, TEXT, canvas
from orchestrator.reporting.tables import Table

MAX_ROWS = 40
"""Lines of a figure; of a larger space the surest keys are drawn."""


def effects(findings: Findings) -> Figure | None:
    """Each value's effect against its key's reference, with its interval; None where none is known."""
    rows: list[tuple[str, Level | None]] = []
    keys = [effect.key for effect in findings.effects.keys]
    for effect in sorted(findings.effects.keys, key=_sureness):
        shown = _shown_levels(effect)
        if any(level.effect for level in shown) and len(rows) + len(shown) < MAX_ROWS:
            rows += [(short(effect.key, keys), None), *((_clipped(level.label), level) for level in shown)]
    if not rows:
        return None
    figure, axes = canvas(0.9 + 0.24 * len(rows))
    axes.axvline(0, color=MUTED, linewidth=1)
    for height, (_, level) in enumerate(rows):
        if level is not None and level.is_reference:
            axes.plot(0, -height, "|", color=TEXT, ms=9, mew=1.5)
        elif level is not None and level.effect is not None and level.together is not None:
            colour = BEST if level.shown else MUTED
            axes.hlines(-height, level.together.low, level.together.high, color=colour, linewidth=1)
            axes.hlines(-height, level.effect.low, level.effect.high, color=colour, linewidth=3)
            axes.plot(level.together.value, -height, "o", color=colour, ms=5.5)
    names = [name if level is None else f"{name} ({level.trials})" for name, level in rows]
    axes.set_yticks([-height for height in range(len(rows))], names)
    for text, (_, level) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if level is None else "normal")
    # In two lines, for long names leave little.
    words = f"difference from the reference,\n{judged(findings)}"
    axes.set(xlabel=words, ylim=(-len(rows) + 0.4, 0.6))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def _shown_levels(effect: Effect) -> list[Level]:
    """The levels of a key that somebody tried."""
    return [level for level in effect.levels if level.effect is not None or level.is_reference]


def importance(findings: Findings) -> Figure | None:
    """Each key's share of what the trials' objectives differ by."""
    found = findings.importances
    if found is None or not found.keys:
        return None
    keys = sorted(found.keys, key=lambda key: key.fanova)[-MAX_ROWS // 2 :]
    names = [short(key.key, [other.key for other in found.keys]) for key in keys]
    figure, axes = canvas(1.3 + 0.36 * len(keys))
    heights = range(len(keys))
    fanova, impurity = [key.fanova for key in keys], [key.impurity for key in keys]
    _bars(axes, [h + 0.18 for h in heights], fanova, found.fanova_floor, BEST, label="fANOVA")
    upper = [h - 0.18 for h in heights]
    _bars(axes, upper, impurity, found.impurity_floor, FRONT, label="decrease of impurity", hatch="////")
    axes.set_yticks(list(heights), names)
    axes.set(xlabel=f"share of the variance at epoch {found.epoch}", xlim=(0, None))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2)  # beside the bars it would hide the dotted lines
    return figure


def _bars(
    axes: Axes, heights: list[float], shares: list[float], floor: float, colour: str, **look: Any
) -> None:
    """Shares as bars, those that may be noise without colour, and the floor as a line."""
    colours = [colour if share > floor else MUTED for share in shares]
    axes.barh(heights, shares, 0.32, color=colours, ec=GRID, **look)
    axes.axvline(floor, color=colour, linestyle=":", linewidth=1.2)


def rung_agreement(findings: Findings) -> Figure | None:
    """How well the ranks at each rung told those at the end."""
    rungs = findings.stopping.rungs if findings.stopping else ()
    if not any(rung.spearman or rung.audited for rung in rungs):
        return None
    figure, axes = canvas(2.8)
    axes.axhline(0, color=MUTED, linewidth=1)
    series = (
        ("trials that went on", [rung.spearman for rung in rungs], MUTED, "o", -0.07),
        ("let live whatever their rank", [rung.audited for rung in rungs], BEST, "s", 0.07),
    )
    for name, estimates, colour, marker, shift in series:
        points = [(place + shift, found) for place, found in enumerate(estimates) if found is not None]
        if points:
            xs, values = [x for x, _ in points], [found.value for _, found in points]
            reach = [[f.value - f.low for _, f in points], [f.high - f.value for _, f in points]]
            axes.errorbar(xs, values, reach, fmt=marker, color=colour, capsize=4, ms=6, label=name)
    axes.set_xticks(range(len(rungs)), [str(rung.epoch) for rung in rungs])
    axes.set(xlabel="epoch of the rung", ylabel="rank correlation with the end", ylim=(-1.05, 1.05))
    axes.set_xlim(-0.5, len(rungs) - 0.5)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    return figure


def effects_table(findings: Findings) -> Table:
    """Every value of every key, with what is behind its effect."""
    found = findings.effects
    rows = [row for effect in found.keys for row in _effect_rows(effect)]
    note = (
        f"Difference of {judged(findings)} from the reference at epoch {found.epoch}{at_seed(found)}, all "
        f"else equal, by a model of {counted(found.trials, 'trial')} that reckons with the early-stopped "
        "ones. The 95% intervals hold all at once, that of the largest effect too, and p is the key's least, "
        "corrected likewise; the interval alone is for who asked of that one value before the sweep. The "
        f"plain mean is of the value's trials at epoch {found.common_epoch}, which all reached. Of a range "
        "these are the trials nearest to the value."
        f"{_sentence(straight_lines(found))}{_sentence(found.note)}"
        f"{''.join(_sentence(determined(nested)) for nested in found.nested)}"
    )
    columns = ["key", "value", "trials", "finished", "effect", "95% interval, all", "95% interval, alone"]
    columns += ["plain mean", "p (all)"]
    return Table("Effects of each key", note, columns, rows)


def nested_table(found: Nested, findings: Findings) -> Table:
    """What each value of a key came to, beside the others that share the values that it determines."""
    rows = []
    for group in found.groups:
        if len(group.cells) > 1:
            rows.append([*group.labels, "mean of these", str(group.trials), number(group.mean)])
        rows += [[*group.labels, label, str(trials), number(mean)] for label, mean, trials in group.cells]
    note = f"Plain means at epoch {findings.effects.common_epoch}; how sure they are is in the effects."
    columns = [*found.within, found.key, "trials", findings.metric]
    return Table(f"{found.key} within {' and '.join(found.within)}", note, columns, rows)


def _sureness(effect: Effect) -> tuple[float, float]:
    return (1.0 if effect.p_together is None else effect.p_together, 1.0 if effect.p is None else effect.p)


def _effect_rows(effect: Effect) -> list[list[str]]:
    """A row for each value of a key, the p beside its reference or the first; weights have p alone."""
    if effect.levels or effect.p_together is None:
        place = next((place for place, level in enumerate(effect.levels) if level.is_reference), 0)
        return [_row(effect, level, number == place) for number, level in enumerate(effect.levels)]
    return [[effect.key, "all weights", str(effect.trials), *[NONE] * 5, f"{effect.p_together:.2g}"]]


def _row(effect: Effect, level: Level, with_p: bool) -> list[str]:
    shown = level.together
    return [
        effect.key,
        level.label,
        str(level.trials),
        str(level.finished),
        "reference" if level.is_reference else _signed(shown)[0] if shown else NONE,
        _interval(shown),
        _interval(level.effect),
        number(level.plain.value) if level.plain else NONE,
        f"{effect.p_together:.2g}" if effect.p_together is not None and with_p else "",
    ]


def confirmation_table(findings: Findings) -> Table:
    """The finalists and the base with fresh seeds."""
    found = findings.confirmation
    configs = (found.base, *found.configs) if found else ()
    some_lost = any(config.lost for config in configs)
    rows = []
    for config in configs:
        rows.append(
            [
                f"{config.trial:04d}" + (" (base)" if found and config is found.base else ""),
                config.verdict or NONE,
                f"{len(config.values)} of {config.asked}",
                *([lost_runs(config) if config.lost else NONE] if some_lost else []),
                number(config.search_value),
                number(config.mean),
                _interval(config.interval, sign=False),
                _gain(config),
                _interval(config.together),
                _interval(config.difference),
                f"{config.p_together:.2g}" if config.p_together is not None else NONE,
                number(config.detectable),
            ]
        )
    columns = [
        "trial",
        "verdict",
        "seeds",
        *(["lost"] if some_lost else []),
        "in the search",
        "mean",
        "95% interval",
        "difference",
        "95% interval, all",
        "95% interval, alone",
        "p (all)",
        "detectable",
    ]
    note = (
        f"{judged(findings)}, paired by seed, on one set of validation images, whose own chance is in no "
        "interval; p by the paired t test against the base. The intervals of differences hold all at once, "
        "and p is corrected likewise (Bonferroni): the verdict is by them. The interval alone is of that one "
        "config. "
        "Means and differences are of the survivors: a side that lost a run is not said to win. "
        "Detectable: the least true difference that would have been shown with 80% power, told so that this "
        "much is true in 80% of sweeps."
    )
    return Table("Confirmation by fresh seeds", note, columns, rows)


def interactions_table(findings: Findings, limit: int = 10) -> Table:
    """Pairs of keys, the surest first."""
    rows = [
        [*found.keys, str(found.trials), f"{found.p:.2g}", f"{found.p_holm:.2g}"]
        for found in findings.interactions[:limit]
    ]
    note = "Whether one key's effect depends on the other's value; p corrected by Holm over all pairs tested."
    return Table("Interactions", note, ["key", "with", "trials", "p", "p (Holm)"], rows)


def _interval(found: Estimate | None, sign: bool = True) -> str:
    if found is None:
        return NONE
    low, high = _signed(found)[1:] if sign else (number(found.low), number(found.high))
    return f"{low} to {high}"


def _signed(found: Estimate) -> list[str]:
    return signs(found.value, found.low, found.high)


def _gain(config: Confirmed) -> str:
    if config.gain is None:
        return NONE
    return (_signed(config.together) if config.together else signs(config.gain))[0]


def _sentence(note: str) -> str:
    return f" {note[:1].upper()}{note[1:].rstrip('.')}." if note else ""


def _clipped(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"
