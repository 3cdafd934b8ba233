"""What stands in a report, whatever it is written as: words, figures, tables, commands."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.definition import SPACE
from orchestrator.process.environment import read_commands
from orchestrator.reporting.caption import NONE, counted
from orchestrator.reporting.drawings import Drawing, drawings
from orchestrator.reporting.effects import confirmation_table, effects_table, interactions_table, nested_table
from orchestrator.reporting.material import Material
from orchestrator.reporting.tables import Table, leading_trials
from orchestrator.reporting.words import summary
from orchestrator.study.record import standing


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
    findings = material.findings
    tables = [
        confirmation_table(findings),
        effects_table(findings),
        *(nested_table(nested, findings) for nested in findings.effects.nested),
        interactions_table(findings),
        leading_trials(material),
        *_environments(material),
    ]
    return Contents(
        name=material.name,
        standing=_standing(material),
        summary=summary(material),
        drawings=drawings(material),
        tables=[table for table in tables if table.rows],
        commands=_commands(material),
        space=material.sweep.to_yaml(),
    )


def _standing(material: Material) -> str:
    trials = standing(material.records)  # one that takes up a failed one has its reports too
    outcomes = Counter(record.outcome or "not over" for record in trials)
    by_outcome = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    epochs = sum(len(record.reports) for record in trials)
    asked = material.sweep.num_trials + 1 + material.sweep.num_confirmations
    of = max(asked, len(trials))  # a sweep that was extended may have other finalists
    algorithm = material.sweep.config.search.algorithm
    proposed = "" if algorithm == "grid" else f" The search's trials were proposed by {algorithm}."
    budgets = "; ".join(words.rstrip(".") for words in material.budgets)
    ended = f" How the search stands: {budgets}." if budgets else ""
    last = {
        "running": " It is still running: what follows will change.",
        "interrupted": " It was interrupted: what follows may change when it goes on.",
        "finished": "",
    }[material.state]
    return (
        f"{len(trials)} of {counted(of, 'trial')} begun ({by_outcome or 'none'}), "
        f"{counted(epochs, 'epoch')} in all.{proposed}{ended}{last}"
    )


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

    begun, *gone_on = read_commands(folder) or [""]
    found = [("It was begun by", begun)] if begun else []
    found += [("It was gone on with by", command) for command in gone_on]
    again = sweep(str(folder / SPACE), "--set", f"name={material.name}-again")
    found.append(("The whole sweep again, under another name", again))
    if material.best is not None:
        found += [
            ("The best config as a file, for hjepa-train", sweep("best", material.name, "--yaml")),
            ("Is its figure the same again?", sweep("reproduce", material.name, "--trial", material.best.id)),
        ]
    return [*found, ("This report", sweep("report", material.name))]
