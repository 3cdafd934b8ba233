"""The figures of a report in their order, each with its heading, caption and words."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from orchestrator.reporting import curves, effects, space_plots, trade_offs
from orchestrator.reporting.caption import counted, number, short
from orchestrator.reporting.material import Material
from orchestrator.reporting.sentences import at_seed, judged
from orchestrator.reporting.style import styled


@dataclass(frozen=True)
class Drawing:
    """A figure, its heading, and what it shows in words."""

    name: str
    """Of its file."""
    title: str
    caption: str
    figure: Figure
    words: str
    """In place of it, for whoever cannot see it."""


def drawings(material: Material) -> list[Drawing]:
    """All that the sweep has something for."""
    kinds = (_seeds, _effects, _importance, _curves, _heat_map, _parallel, _rungs, _objectives, _cost)
    with styled():
        return [found for draw in kinds if (found := draw(material)) is not None]


def _seeds(material: Material) -> Drawing | None:
    caption = (
        "Small dots are runs, those of one seed joined; squares are means with their 95% interval by "
        "Student's t. The cross is the figure of the search, which chose it for being the best. The "
        "intervals are over training seeds, on one set of validation images."
    )
    words = f"{material.metric} of the base config and the finalists, each with fresh seeds."
    return _drawing("seeds", "Finalists with fresh seeds", caption, curves.seeds(material), words)


def _effects(material: Material) -> Drawing | None:
    found = material.findings.effects
    caption = (
        f"Difference of {judged(material.findings)} from the key's reference (the bar at 0) at epoch "
        f"{found.epoch}{at_seed(found)}, all else equal. Thin lines are 95% intervals that hold all at once, "
        "blue where they leave 0 out; thick ones are of that one value alone. In brackets, the trials that "
        "had the value, of a range those nearest to it."
    )
    words = "Effect of each value of each key with its interval; the table of effects has the figures."
    return _drawing("effects", "Effect of each value", caption, effects.effects(material.findings), words)


def _importance(material: Material) -> Drawing | None:
    found = material.findings.importances
    if found is None:
        return None
    caption = (
        f"Share of what {material.metric} varies by among {found.trials} trials at epoch {found.epoch}, "
        "which all reached, by two of Optuna's evaluators: how much a key moves the objective within this "
        "space, not whether it helps. Dotted lines: what some key gets by chance in one sweep of 20 in which "
        "none does anything. Grey shares, left of them, are not told from noise."
    )
    told = {key.key for key in found.keys}
    if untold := [key for key in material.sweep.config.space if key not in told]:
        caption += f" Not among them, since too few trials had a value, or all alike: {', '.join(untold)}."
    shares = ", ".join(
        f"{key.key} {key.fanova:.2f}{'' if key.fanova > found.fanova_floor else ' (may be noise)'}"
        for key in found.keys
    )
    figure = effects.importance(material.findings)
    return _drawing("importance", "Importance of each key", caption, figure, f"By fANOVA: {shares}.")


def _curves(material: Material) -> Drawing | None:
    rungs = ", ".join(map(str, material.sweep.rungs))
    by_rung = f" Vertical lines are the rungs, at epochs {rungs}, where weak trials stop." if rungs else ""
    far = "" if curves.usual_values(material) is None else " Values far from all others are left out."
    caption = (
        f"{material.metric} after every epoch of each trial.{by_rung}{far}{_drawn(len(material.searched))}"
    )
    best = f" The best reached {number(material.value(material.best))}." if material.best else ""
    words = f"{material.metric} of {counted(len(material.searched), 'trial')} by epoch.{best}"
    return _drawing("learning_curves", "Learning curves", caption, curves.learning_curves(material), words)


def _heat_map(material: Material) -> Drawing | None:
    pair = space_plots.telling_pair(material, _telling_order(material))
    if pair is None:
        return None
    caption = (
        f"Mean {material.metric} after epoch {space_plots.first_rung(material)}, which every trial reaches, "
        "so that early stopping cannot bend it. Other keys vary within a cell; shades are fifths."
    )
    names = [short(key, list(material.sweep.config.space)) for key in pair]
    words = f"Mean {material.metric} for each combination of {pair[0]} and {pair[1]}."
    figure = space_plots.heat_map(material, pair)
    return _drawing("heat_map", f"{names[0]} against {names[1]}", caption, figure, words)


def _telling_order(material: Material) -> list[str]:
    """Keys by what the analysis has to say of them; those of a sure interaction come first."""
    findings = material.findings
    pairs = [key for found in findings.interactions if found.p_holm < 0.05 for key in found.keys]
    effects = sorted(findings.effects.keys, key=lambda effect: 1.0 if effect.p is None else effect.p)
    return [*dict.fromkeys([*pairs, *(effect.key for effect in effects)])]


def _parallel(material: Material) -> Drawing | None:
    caption = (
        "Each line is a trial, darker the better it was (in dark mode: lighter), by fifths; a line that "
        f"passes left of an axis has no value there.{_drawn(len(material.ranking))}"
    )
    words = (
        f"The values of {', '.join(material.sweep.config.space)} of each trial, and its {material.metric}."
    )
    figure = space_plots.parallel_coordinates(material)
    return _drawing("parallel_coordinates", "What each trial was made of", caption, figure, words)


def _rungs(material: Material) -> Drawing | None:
    caption = (
        "Rank correlation of the objective at each rung with that at the end, with 95% intervals. Trials "
        "that went on were selected, which lowers it; those let live whatever their rank were not."
    )
    words = f"Rank correlation of {material.metric} at each rung with its value at the end."
    figure = effects.rung_agreement(material.findings)
    return _drawing("rung_agreement", "Did the rungs tell the end?", caption, figure, words)


def _objectives(material: Material) -> Drawing | None:
    metrics = material.sweep.config.objective.metrics
    caption = (
        f"Trials that ran to their end, by all that the search was for; {metrics[0]} decides. Diamonds are "
        "those that no other trial beats in all of them."
    )
    words = f"{', '.join(metrics)} of each completed trial, and which of them none beats in all."
    return _drawing(
        "objectives", "Objectives against each other", caption, trade_offs.objectives(material), words
    )


def _cost(material: Material) -> Drawing | None:
    caption = (
        "Trials that ran all epochs, by the time their epochs took as measured in their processes; what else "
        "the machine did is in it."
    )
    ran = counted(len(material.full), "trial")
    words = f"{material.metric} of {ran} that ran all epochs against their seconds of training."
    return _drawing(
        "cost_and_quality", "Cost against quality", caption, trade_offs.cost_and_quality(material), words
    )


def _drawing(name: str, title: str, caption: str, figure: Figure | None, words: str) -> Drawing | None:
    return None if figure is None else Drawing(name, title, caption, figure, words)


def _drawn(count: int) -> str:
    shown = curves.DRAWN
    return f" {shown} of the {count} trials are drawn, evenly from best to worst." if count > shown else ""
