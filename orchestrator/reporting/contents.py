"""What stands in a report, whatever it is written as: words, figures, tables, commands."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from orchestrator.definition import SPACE
from orchestrator.report import SweepResult, answer
from orchestrator.reporting.curves import DRAWN, cost_and_quality, learning_curves, seeds
from orchestrator.reporting.material import Material
from orchestrator.reporting.space_plots import (
    first_rung,
    heat_map,
    parallel_coordinates,
    short,
    telling_pair,
)
from orchestrator.reporting.style import styled
from orchestrator.reporting.tables import NONE, Table, leading_trials, number


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


@dataclass(frozen=True)
class Contents:
    """A whole report."""

    name: str
    standing: str
    """How far the sweep is, in a sentence."""
    summary: Sequence[str]
    drawings: Sequence[Drawing]
    tables: Sequence[Table]
    commands: Sequence[tuple[str, str]]
    """What each does, and the command."""
    space: str
    """The resolved search space, YAML."""


def contents(material: Material) -> Contents:
    """The report of a sweep as far as it has come."""
    with styled():
        drawings = _drawings(material)
    tables = [leading_trials(material), *_environments(material)]
    return Contents(
        name=material.name,
        standing=_standing(material),
        summary=_summary(material),
        drawings=drawings,
        tables=[table for table in tables if table.rows],
        commands=_commands(material),
        space=material.sweep.to_yaml(),
    )


def _standing(material: Material) -> str:
    outcomes = Counter(record.outcome or "not over" for record in material.records)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    epochs = sum(len(record.reports) for record in material.records)
    of = material.sweep.num_trials + 1 + material.sweep.num_confirmations
    last = {
        "running": " It is still running: what follows will change.",
        "interrupted": " It was interrupted: what follows may change when it goes on.",
        "finished": "",
    }[material.state]
    return (
        f"{len(material.records)} of {of} trials begun ({counted or 'none'}), {epochs} epochs in all.{last}"
    )


def _summary(material: Material) -> list[str]:
    result = SweepResult(material.folder, list(material.records), material.best, material.base, 0)
    return answer(result, material.sweep)


def _drawings(material: Material) -> list[Drawing]:
    metric, space = material.metric, list(material.sweep.config.space)
    drawn = _drawn(len(material.searched))
    rungs = ", ".join(map(str, material.sweep.rungs))
    by_rung = f" Vertical lines are the rungs, at epochs {rungs}, where weak trials stop." if rungs else ""
    best = f"The best reached {number(material.value(material.best))}." if material.best else ""
    pair = telling_pair(material)
    found: list[tuple[str, str, str, Figure | None, str]] = [
        (
            "seeds",
            "The finalists with fresh seeds",
            "Small dots are runs, those of one seed joined; squares are means with their 95% interval by "
            "Student's t. The cross is the figure of the search, which chose it for being high.",
            seeds(material),
            f"{metric} of the base config and the finalists, each with fresh seeds.",
        ),
        (
            "learning_curves",
            "Learning curves",
            f"{metric} after every epoch of each trial.{by_rung}{drawn}",
            learning_curves(material),
            f"{metric} of {len(material.searched)} trials by epoch. {best}",
        ),
        (
            "parallel_coordinates",
            "What each trial was made of",
            "Each line is a trial, darker the better it was (in dark mode: lighter), by fifths; a line that "
            f"leaves an axis on its left has no value there.{_drawn(len(material.ranking))}",
            parallel_coordinates(material),
            f"The values of {', '.join(space)} of each trial, and its {metric}.",
        ),
        (
            "heat_map",
            f"{short(pair[0], space)} against {short(pair[1], space)}" if pair else "",
            f"Mean {metric} after epoch {first_rung(material)}, which every trial reaches, so that early "
            "stopping cannot bend it; other keys vary within a cell.",
            heat_map(material, pair) if pair else None,
            f"Mean {metric} for each combination of {' and '.join(pair)}." if pair else "",
        ),
        (
            "cost_and_quality",
            "Cost against quality",
            "Trials that ran all epochs, by the time their epochs took as measured in their processes; what "
            "else the machine did is in it.",
            cost_and_quality(material),
            f"{metric} of the {len(material.full)} full trials against their seconds of training.",
        ),
    ]
    return [Drawing(n, title, caption, figure, words) for n, title, caption, figure, words in found if figure]


def _drawn(count: int) -> str:
    return f" {DRAWN} of the {count} trials are drawn, evenly from best to worst." if count > DRAWN else ""


def _environments(material: Material) -> list[Table]:
    found = material.environments
    if not found:
        return []
    names = list(dict.fromkeys(name for one in found for name in one))
    rows = [[name, *(_words(one.get(name, NONE)) for one in found)] for name in names]
    note = "What the sweep's driver ran on." + (" It went on elsewhere." if len(found) > 1 else "")
    return [Table("Environment", note, ["", *("at first", *("then",) * (len(found) - 1))], rows)]


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _commands(material: Material) -> list[tuple[str, str]]:
    folder, where = material.folder, ["--results", str(material.folder.parent)]

    def sweep(*words: str) -> str:
        return shlex.join(
            ["hjepa-sweep", *words, *(where if str(material.folder.parent) != "results" else [])]
        )

    again = sweep(str(folder / SPACE), "--set", f"name={material.name}-again")
    found = [("The whole sweep again, under another name", again)]
    if material.best is not None:
        found += [
            ("The best config, once more", f"hjepa-train {shlex.quote(str(folder / 'best.yaml'))}"),
            ("Is its figure the same again?", sweep("reproduce", material.name, "--trial", material.best.id)),
        ]
    return [*found, ("This report", sweep("report", material.name))]
