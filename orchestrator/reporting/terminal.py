"""What a sweep found, in words."""

import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.analysis import analyse
from orchestrator.definition import PAGE, REPORT
from orchestrator.reporting.caption import counted, describe, number, references
from orchestrator.reporting.sentences import effects, stopping, verdicts
from orchestrator.space import Sweep
from orchestrator.study.record import TrialRecord, standing
from orchestrator.tracking.tracking import sqlalchemy_uri


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    folder: Path
    records: list[TrialRecord]
    best: TrialRecord | None
    base: TrialRecord | None
    undelivered: int
    """Records that MLflow has not got."""
    budgets: list[str] = field(default_factory=list)
    """What ended the search before its last trial, and how its budgets stand, in words."""
    front: list[TrialRecord] = field(default_factory=list)
    """Of several objectives the trials that no other one beats."""

    @property
    def failed(self) -> list[TrialRecord]:
        """Trials that failed and have not been taken up again."""
        return [record for record in standing(self.records) if record.outcome == "failed"]


def summary(result: SweepResult, sweep: Sweep, tracking_uri: str) -> str:
    """The whole answer: first what is sure, then what was seen."""
    findings = analyse(sweep, result.records, with_importances=False)
    lines = [
        "",
        *verdicts(findings, sweep.config.confirm.top_k),
        *effects(findings),
        *stopping(findings),
        *_trials(result),
        *_best(result, sweep),
        *_front(result, sweep),
        *_references(result, sweep),
    ]
    if result.undelivered:
        lines.append(
            f"MLflow has not got {counted(result.undelivered, 'record')}, kept in {result.folder}. "
            f"Send them: {sync_command(result.folder)}"
        )
    if (page := result.folder / REPORT / PAGE).exists():
        lines.append(f"on one page: {page}")
    lines.append(_where_to_look(result.folder, tracking_uri))
    return "\n".join(lines)


def sync_command(folder: Path) -> str:
    """What sends MLflow the rest."""
    return shlex.join(["hjepa-sweep", "sync", folder.name, "--results", str(folder.parent)])


def _where_to_look(folder: Path, tracking_uri: str) -> str:
    name, results = folder.name, folder.parent
    database = Path(tracking_uri.removeprefix("sqlite:///")).absolute()
    if database == (results / "mlflow.db").absolute():
        where = [] if results == Path("results") else ["--results", str(results)]
        return f"compare: {shlex.join(['hjepa-sweep', 'ui', *where])} (experiment {name})"
    if urlsplit(tracking_uri).scheme == "sqlite":
        store = shlex.quote(sqlalchemy_uri(tracking_uri))
        return f"compare: mlflow ui --backend-store-uri {store} (experiment {name})"
    return f"compare: experiment {name} on your MLflow server"  # its URL may hold a password


def _trials(result: SweepResult) -> list[str]:
    trials = standing(result.records)  # one that takes up a failed one has its reports too
    outcomes = Counter(record.outcome or "held" for record in trials)
    by_outcome = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    epochs = sum(len(record.reports) for record in trials)
    failed = [f"  trial {record.id} failed: {record.reason}" for record in result.failed]
    return [
        f"{counted(len(trials), 'trial')}: {by_outcome}; {counted(epochs, 'epoch')} in all",
        *_not_run(result),
        *failed,
        *result.budgets,
    ]


def _not_run(result: SweepResult) -> list[str]:
    """Proposals that cost no trial, by why."""
    counts: Counter[str] = Counter()
    for record in result.records:
        for reason, count in record.passed_over.items():
            counts["is a trial again" if reason.startswith("is trial ") else reason] += count
    return [f"  {count} proposed and not run: {reason}" for reason, count in sorted(counts.items())]


def _best(result: SweepResult, sweep: Sweep) -> list[str]:
    best, metric = result.best, sweep.config.objective.metric
    last = best.last(metric) if best is not None else None
    if best is None or last is None:
        return ["No trial came to an end with a value, so there is no best config."]
    whose = ", the base config" if best.role == "base" else ""
    return [
        f"best seen: trial {best.id}{whose}, {metric} {number(last[1])} after epoch {last[0]}",
        *(f"  {key}: {label}" for key, label in sweep.labels(best.values).items()),
        f"  run it: {shlex.join(['hjepa-train', str(result.folder / 'best.yaml')])}",
    ]


def _front(result: SweepResult, sweep: Sweep) -> list[str]:
    """The trials that no other one beats in all objectives."""
    metrics = sweep.config.objective.metrics
    if len(metrics) == 1:
        return []
    lines = [f"completed trials that none beats in all of {', '.join(metrics)}:"]
    for record in result.front:
        values = (record.figure(metric) for metric in metrics)
        shown = ", ".join("-" if value is None else f"{value:.5g}" for value in values)
        lines.append(f"  trial {record.id}: {shown}; {describe(record, sweep.config.space)}")
    return lines if result.front else [f"{lines[0]} none"]


def _references(result: SweepResult, sweep: Sweep) -> list[str]:
    base, metric = result.base, sweep.config.objective.metric
    last = base.last(metric) if base is not None else None
    if base is None or last is None:
        return ["The base config has no value to compare with."]
    lines = [f"base config: {metric} {number(last[1])} after epoch {last[0]}"]
    lines += [f"{words}: knn_top1 {value:.4f}" for words, value in references(base).items()]
    return lines
