"""A sweep from its space to its answer. Running and resuming are one path: open the study, go on."""

import json
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from orchestrator.engine import local_ray, places, run_trials
from orchestrator.progress import Counts, Progress, progress
from orchestrator.report import SweepResult
from orchestrator.schedule import Asha
from orchestrator.search import FINISHED, build_sampler
from orchestrator.space import Config, ConfigError, Sweep, to_yaml
from orchestrator.study import Outcome as Ending
from orchestrator.study import Study, SweepLock, TrialRecord
from orchestrator.tracking import Status, Tracker, undelivered
from orchestrator.trial import Outcome, Task

BEST, DEFINITION = "best.yaml", "definition.json"
DELIVERY_S = 60.0
"""Seconds that the end of a sweep waits for MLflow; what is late stays in the spool."""

_STATUS: dict[Ending, Status] = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "collapsed": "FINISHED",
    "failed": "FAILED",
}


def run_sweep(sweep: Sweep, results: Path, tracking_uri: str, quiet: bool = False) -> SweepResult:
    """Run a sweep to its end, or what is left of one that was interrupted.

    Raises ConfigError, before anything is written, where the results folder belongs to another
    sweep or a trial cannot be placed; KeyboardInterrupt leaves a sweep that can be gone on with.
    """
    at_a_time = places(sweep.config.resources)
    folder = results / sweep.config.name
    _require_same_sweep(folder, sweep)
    with ExitStack() as stack:
        lock = SweepLock(folder)
        stack.callback(lock.release)
        telling = {"fingerprint": sweep.fingerprint(), "definition": sweep.definition()}
        _write(folder / DEFINITION, json.dumps(telling, indent=1))
        study = _open_study(folder, sweep)
        told = (folder / BEST).exists() and undelivered(folder) == 0
        if told and not work_is_left(sweep, study):
            return _result(folder, study, 0)
        _write(folder / "sweep.yaml", sweep.to_yaml())
        _write(folder / "base.yaml", to_yaml(sweep.base))
        counts = Counts(total=sweep.num_trials + 1 + sweep.num_confirmations)
        tracker = Tracker(folder, tracking_uri, sweep.config.name, study.id)
        run = SweepRun(folder, sweep, study, tracker, counts)
        try:
            if work_is_left(sweep, study):
                with local_ray(sweep.config.resources) as scratch:
                    shown = progress(study.metric, sweep.max_epochs, counts, quiet)
                    run.progress = stack.enter_context(shown)
                    run.progress.note(_opening(sweep, study, at_a_time))
                    run_trials(sweep.config.resources, run.next_trial, run, scratch)
            result = run.finish()
        except BaseException:
            run.abandon()
            raise
        return result


def _result(folder: Path, study: Study, late: int) -> SweepResult:
    return SweepResult(folder, list(study.trials.values()), study.best(), study.base(), late)


def _open_study(folder: Path, sweep: Sweep) -> Study:
    study = Study(folder, sweep, build_sampler(sweep, 0))
    if study.trials:
        study.use_sampler(build_sampler(sweep, len(study.trials)))
    return study


def _require_same_sweep(folder: Path, sweep: Sweep) -> None:
    """Raise ConfigError where `folder` holds another sweep, or something else. Writes nothing."""
    try:
        telling = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
        same = telling["fingerprint"] == sweep.fingerprint()
        before = _flat(telling["definition"])
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder}: holds files but no sweep; name another folder by --results, or another sweep "
                "by --set name=NAME."
            ) from None
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / DEFINITION}: cannot be read: {error}.") from None
    if same:
        return
    after = _flat(sweep.definition())
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    lines = [
        f"  {key}: {before.get(key, 'absent')} there, {after.get(key, 'absent')} here" for key in changed
    ]
    shown = [*lines[:12], *([f"  and {len(lines) - 12} more"] if len(lines) > 12 else [])]
    raise ConfigError(
        f"{sweep.path}: name: {sweep.config.name} is taken: {folder} holds another sweep.\n"
        + "\n".join(shown)
        + "\nName this one differently by --set name=NAME, or move that folder away."
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested data by dotted key, values as JSON."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found


def _opening(sweep: Sweep, study: Study, at_a_time: int) -> str:
    over = sum(record.outcome is not None for record in study.trials.values())
    going_on = f", {over} of them over already" if over else ""
    return (
        f"{sweep.config.name}: {sweep.num_trials} trials and the base config{going_on}, "
        f"{at_a_time} at a time, up to {sweep.max_epochs} epochs"
        + (f", rungs at {', '.join(map(str, sweep.rungs))}" if sweep.rungs else "")
    )


def searched(study: Study) -> int:
    """Trials that the search has asked for."""
    return sum(record.role == "search" for record in study.trials.values())


def reruns_left(sweep: Sweep, study: Study) -> list[tuple[TrialRecord, int]]:
    """Trials and fresh seeds that are still to be run again: the base's and the best ones'."""
    settings, base = sweep.config.confirm, study.base()
    if not settings.top_k or base is None:
        return []
    best = [record for record in study.ranking() if record.role == "search"]
    chosen = [base, *best[: settings.top_k]]
    done = {(record.confirms, record.seed) for record in study.trials.values()}
    # Seeds outermost: whenever it stops, every config has been run with nearly the same ones.
    first = sweep.base.seed + 1
    return [
        (record, seed)
        for seed in range(first, first + settings.seeds)
        for record in chosen
        if (record.number, seed) not in done
    ]


def work_is_left(sweep: Sweep, study: Study) -> bool:
    """Whether any trial is to be begun or gone on with."""
    if study.unfinished() or study.base() is None or searched(study) < sweep.num_trials:
        return True
    return bool(reruns_left(sweep, study))


class SweepRun:
    """A sweep while it runs: who is next, who may go on, and the record of both."""

    def __init__(self, folder: Path, sweep: Sweep, study: Study, tracker: Tracker, counts: Counts):
        self.folder, self.sweep, self.study, self.tracker, self.counts = folder, sweep, study, tracker, counts
        self.progress = Progress(study.metric, sweep.max_epochs, counts)
        self.failures: dict[int, int] = {}
        factor = sweep.config.scheduler.reduction_factor
        self.asha = Asha(sweep.rungs, factor, "max" if sweep.objective_mode == "max" else "min")
        for record in study.trials.values():
            self._fill_rungs(record)
            if record.outcome is not None:
                self._count(record.outcome)
        self.grid = self._grid_left()
        tracker.start_sweep({"search_space": json.dumps(sweep.definition()["sweep"]["space"])}, {})
        for record in study.unfinished():
            self._decide(record, max(record.reports, default=0))
        self.waiting = deque(study.unfinished())

    def _grid_left(self) -> deque[dict[str, Any]] | None:
        if self.sweep.config.search.algorithm != "grid":
            return None
        done = [record.values for record in self.study.trials.values() if record.role == "search"]
        return deque(values for values in self.sweep.grid() if values not in done)

    def next_trial(self) -> dict[str, Any] | str | None:
        """What Tune shall begin: interrupted trials first, then the base, then proposals."""
        record = self._next_record()
        if record is None:
            return None if self.study.unfinished() else FINISHED
        fresh = {} if record.seed is None else {"seed": record.seed}
        run = self.sweep.resolve(record.values | fresh)
        folder = self.folder / "trials" / record.id
        resume = folder / record.checkpoint if record.checkpoint else None
        if resume is not None and not resume.exists():
            self.progress.note(f"trial {record.id} starts anew: {resume} is not there any more")
            resume = None
        return Task(
            number=record.number,
            run=run.model_dump_json(),
            folder=str(folder.resolve()),
            resume=str(resume.resolve()) if resume is not None else None,
            baselines=record.role == "base",
        ).config()

    def _next_record(self) -> TrialRecord | None:
        if self.waiting:
            return self.waiting.popleft()
        if self.study.base() is None:
            return self.study.ask("base", self.sweep.base_values())
        if searched(self.study) < self.sweep.num_trials:
            return self.study.ask("search", self.grid.popleft() if self.grid is not None else None)
        # Who is best is known when all have ended.
        if any(record.role != "confirm" for record in self.study.unfinished()):
            return None
        reruns = reruns_left(self.sweep, self.study)
        return self.study.ask_again(*reruns[0]) if reruns else None

    def _shown(self, record: TrialRecord) -> dict[str, str]:
        return {f"swept.{key}": value for key, value in self.sweep.labels(record.values).items()}

    def started(self, config: dict[str, Any]) -> None:
        """A trial has got its processors."""
        task = Task.of(config)
        record = self.study.trials[task.number]
        tags = {"role": record.role, "trial": record.id} | self._shown(record)
        self.tracker.start_trial(record.id, _parameters(task.run_config()), tags)
        self.progress.started(record)

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        """Record a report, and decide whether its trial goes on."""
        task, outcome = Task.of(config), Outcome.of(result)
        record = self.study.trials[task.number]
        if record.outcome is not None:
            return False
        if outcome.failure is not None:
            self._end(record, "failed", outcome.failure)
            return False
        self.study.report(task.number, outcome.epoch, outcome.metrics, outcome.checkpoint)
        self.tracker.log_epoch(record.id, outcome.epoch, outcome.metrics)
        self._fill_rungs(record)
        self.progress.reported(record)
        if outcome.collapsed is not None:
            self._end(record, "collapsed", outcome.collapsed)
        else:
            self._decide(record, outcome.epoch)
        return record.outcome is None

    def _decide(self, record: TrialRecord, epoch: int) -> None:
        """End a trial that has reported `epoch`, if that is its last or ASHA says so.

        Also asked when a sweep goes on: it may have died between a report and what follows from it.
        """
        if epoch >= self.sweep.max_epochs:
            self._end(record, "completed")
        elif record.role == "search" and not self.asha.goes_on(record.number, epoch):
            self._end(record, "pruned", self.asha.rank(record.number, epoch))

    def crashed(self, config: dict[str, Any], error: str) -> None:
        """A trial's process died: try again from its checkpoint, or give the trial up."""
        record = self.study.trials[Task.of(config).number]
        if record.outcome is not None:
            return
        count = self.failures[record.number] = self.failures.get(record.number, 0) + 1
        reason = error.strip().splitlines()[-1][:300]
        if count > self.sweep.config.resources.max_failures:
            self._end(record, "failed", reason)
        else:
            self.progress.note(f"trial {record.id} crashed and is tried again: {reason}")
            self.waiting.append(record)

    def _end(self, record: TrialRecord, outcome: Ending, reason: str = "") -> None:
        self.study.end(record.number, outcome, reason)
        self._count(outcome)
        self.counts.best = self._best_so_far()
        self.tracker.end_trial(record.id, _STATUS[outcome], {"outcome": outcome, "reason": reason})
        self._tidy(record)
        self.progress.ended(record)

    def _best_so_far(self) -> str:
        parts = []
        for name, record in (("best", self.study.best()), ("base", self.study.base())):
            last = record.last(self.study.metric) if record is not None else None
            if record is not None and last is not None:
                parts.append(f"{name} {last[1]:.4f} (trial {record.id}, epoch {last[0]})")
        return ", ".join(parts)

    def _tidy(self, record: TrialRecord) -> None:
        """Keep the last checkpoint of a completed trial, none of a weak one, all of a failed one."""
        if record.outcome != "failed":
            kept = record.checkpoint if record.outcome == "completed" else None
            for file in (self.folder / "trials" / record.id).glob("epoch_*.pt"):
                if file.name != kept:
                    file.unlink(missing_ok=True)

    def _count(self, outcome: Ending) -> None:
        self.counts.ended[outcome] = self.counts.ended.get(outcome, 0) + 1

    def _fill_rungs(self, record: TrialRecord) -> None:
        for epoch, metrics in record.reports.items():
            if self.study.metric in metrics:
                self.asha.record(record.number, epoch, metrics[self.study.metric])

    def finish(self) -> SweepResult:
        """Write the best config, close the records, and wait for MLflow."""
        best, base = self.study.best(), self.study.base()
        if best is not None:
            path = self.folder / BEST
            _write(path, _best_yaml(self.sweep, self.study, best))
            self.tracker.log_artifact(path)
        self.tracker.log_artifact(self.folder / "sweep.yaml")
        self.tracker.log_artifact(self.folder / "base.yaml")
        summary = {}
        for name, record in (("best", best), ("base", base)):
            last = record.last(self.study.metric) if record else None
            if last is not None:
                summary[f"{name}/{self.study.metric}"] = last[1]
        self.tracker.end_sweep("FINISHED", {"best_trial": best.id if best else ""}, summary)
        return _result(self.folder, self.study, self.tracker.close(DELIVERY_S))

    def abandon(self) -> None:
        """Stop in the middle: MLflow's open runs are closed, the study keeps its trials open."""
        for record in self.study.unfinished():
            self.tracker.end_trial(record.id, "KILLED", {"outcome": "interrupted"})
        self.tracker.end_sweep("KILLED", {}, {})
        self.tracker.close(5.0)


def _parameters(run: Config) -> dict[str, Any]:
    """A run config's values by dotted key."""
    return {key: json.loads(value) for key, value in _flat(run.model_dump(mode="json")).items()}


def _best_yaml(sweep: Sweep, study: Study, best: TrialRecord) -> str:
    last = best.last(study.metric)
    assert last is not None
    epoch, value = last
    head = (
        f"# Trial {best.id} of sweep {sweep.config.name}: {study.metric} {value:.6f} after epoch {epoch}.\n"
        f"# The best figure of a search is too good on average: it was chosen for being high.\n"
        f"# hjepa-train {study.folder / BEST} runs it again.\n"
    )
    return head + to_yaml(sweep.resolve(best.values))


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
