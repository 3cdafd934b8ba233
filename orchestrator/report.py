"""What a sweep found, in words."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.progress import describe
from orchestrator.space import Sweep
from orchestrator.study import TrialRecord, standing

CONFIDENCE = 0.95


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
    """How its budgets stand, in words, and that one ended the search."""
    front: list[TrialRecord] = field(default_factory=list)
    """Of several objectives the trials that no other one beats."""

    @property
    def failed(self) -> list[TrialRecord]:
        """Trials that failed and have not been taken up again."""
        return [record for record in standing(self.records) if record.outcome == "failed"]


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values, and its 95% interval by Student's t."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95% interval {self.low:+.4f} to {self.high:+.4f}, {self.count} seeds)"

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.half_width


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values with its 95% interval; at least two values, else ValueError."""
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}")
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    from scipy import stats  # half a second, and many sweeps need none

    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, t * deviation / math.sqrt(len(values)), len(values))


def summary(result: SweepResult, sweep: Sweep, tracking_uri: str) -> str:
    """The whole answer, some ten lines."""
    lines = [
        "",
        *_trials(result),
        *_best(result, sweep),
        *_front(result, sweep),
        *_references(result, sweep),
        *_confirmed(result, sweep),
    ]
    if result.undelivered:
        lines.append(
            f"MLflow has not got {result.undelivered} records; they are kept in {result.folder}. "
            f"Send them: {sync_command(result.folder)}"
        )
    lines.append(_where_to_look(sweep.config.name, tracking_uri))
    return "\n".join(lines)


def sync_command(folder: Path) -> str:
    """What sends MLflow the rest."""
    return shlex.join(["hjepa-sweep", "sync", folder.name, "--results", str(folder.parent)])


def _where_to_look(name: str, tracking_uri: str) -> str:
    if urlsplit(tracking_uri).scheme == "sqlite":
        return f"compare: mlflow ui --backend-store-uri {tracking_uri} (experiment {name})"
    return f"compare: experiment {name} on your MLflow server"  # its URL may hold a password


def _trials(result: SweepResult) -> list[str]:
    outcomes = Counter(record.outcome or "held" for record in result.records)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    epochs = sum(len(record.reports) for record in result.records)
    failed = [f"  trial {record.id} failed: {record.reason}" for record in result.failed]
    return [
        f"{len(result.records)} trials: {counted}; {epochs} epochs in all",
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
        f"best: trial {best.id}{whose}, {metric} {last[1]:.4f} after epoch {last[0]}",
        *(f"  {key}: {label}" for key, label in sweep.labels(best.values).items()),
        f"  run it: hjepa-train {result.folder / 'best.yaml'}",
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
        lines.append(f"  trial {record.id}: {shown}; {describe(record, short=True)}")
    return lines if result.front else [f"{lines[0]} none"]


def _references(result: SweepResult, sweep: Sweep) -> list[str]:
    base, metric = result.base, sweep.config.objective.metric
    last = base.last(metric) if base is not None else None
    if base is None or last is None:
        return ["The base config has no value to compare with."]
    lines = [f"base config: {metric} {last[1]:.4f} after epoch {last[0]}"]
    references = {
        "pretrained": "pretrained weights",
        "random_init": "random initialisation",
        "raw_pixels": "raw pixels",
    }
    for name, words in references.items():
        values = [m[f"{name}/knn_top1"] for m in base.reports.values() if f"{name}/knn_top1" in m]
        lines += [f"{words}: knn_top1 {value:.4f}" for value in values[:1]]
    return lines


def _confirmed(result: SweepResult, sweep: Sweep) -> list[str]:
    """Fresh seeds of the best against the same seeds of the base."""
    if result.base is None or result.best is None:
        return []
    if not sweep.config.confirm.top_k:
        return ["The best figure was chosen for being high; a `confirm:` section runs it with fresh seeds."]
    runs = seeds_of(result.records, result.base, sweep.config.objective.metric)
    sign = 1 if sweep.objective_mode == "max" else -1
    confirmed = [r for r in result.records if r.number in {c.confirms for c in result.records}]
    lines = ["with fresh seeds, which the search has not seen:"]
    for record in confirmed:
        if record.role == "base":
            continue
        own = seeds_of(result.records, record, sweep.config.objective.metric)
        pairs = [own[seed] - runs[seed] for seed in own.keys() & runs.keys()]
        if len(pairs) < 2:
            lines.append(f"  trial {record.id}: too few runs came to an end to say anything")
            continue
        gain = interval(pairs)
        mean, base_mean = math.fsum(own.values()) / len(own), math.fsum(runs.values()) / len(runs)
        lines.append(f"  trial {record.id}: mean {mean:.4f}, base {base_mean:.4f}; difference {gain}")
        if gain.low <= 0 <= gain.high:
            lines.append(
                f"  no difference shown; with these seeds one under {gain.half_width:.4f} could hide"
            )
        else:
            lines.append(f"  {'better' if sign * gain.mean > 0 else 'worse'} than the base config")
    return lines


def seeds_of(records: Sequence[TrialRecord], of: TrialRecord, metric: str) -> dict[int, float]:
    """The last value of each completed rerun of `of`, by seed."""
    return {
        record.seed: last[1]
        for record in records
        if record.confirms == of.number and record.seed is not None and record.outcome == "completed"
        if (last := record.last(metric)) is not None
    }
