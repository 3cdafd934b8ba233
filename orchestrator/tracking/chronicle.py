"""What MLflow is told of a sweep's trials."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.definition import flat
from orchestrator.engine.trial import half_micro_batch, write_features
from orchestrator.process.environment import environment
from orchestrator.space import RunConfig, Sweep
from orchestrator.study.record import Outcome, TrialRecord
from orchestrator.tracking.tracking import Status, Tracker

_STATUS: dict[Outcome, Status] = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "collapsed": "FINISHED",
    "failed": "FAILED",
}


class Chronicle:
    """Tells MLflow of trials, as the study has them."""

    def __init__(self, tracker: Tracker, sweep: Sweep):
        self._tracker, self._sweep = tracker, sweep
        self._early: dict[str, set[int | str]] = {}
        """Of each trial what MLflow has been told and the study does not know: its end was cut off."""

    def opened(self) -> None:
        """The sweep begins or goes on."""
        space = json.dumps(self._sweep.definition()["sweep"]["space"])
        told = {f"environment.{name}": value for name, value in environment().items()}
        self._tracker.start_sweep({"search_space": space}, told | _source())

    def started(self, record: TrialRecord) -> None:
        """A trial begins or goes on."""
        swept = {f"swept.{key}": value for key, value in self._sweep.labels(record.values).items()}
        own = {"role": record.role, "trial": record.id}
        if record.origin is not None:
            own["origin"] = record.origin
        if record.retries is not None:
            own["retries"] = f"{record.retries:04d}"
        if record.passed_over:
            own["passed_over"] = json.dumps(record.passed_over)
        run = run_config(self._sweep, record)
        self._tracker.start_trial(record.id, _parameters(run), own | swept | _source(), dataset(run))

    def reported(self, record: TrialRecord, epoch: int, system: dict[str, float] | None = None) -> None:
        """A trial has reported `epoch`, on a machine as busy as `system` says."""
        if epoch in self._early.get(record.id, ()):
            return
        # Sent twice with one and the same time, a value stands in MLflow once.
        time_ms = record.facts[epoch].time_ms or None
        self._tracker.log_epoch(record.id, epoch, {**record.reports[epoch], **(system or {})}, time_ms)

    def ended(self, record: TrialRecord) -> None:
        """A trial is over."""
        assert record.outcome is not None
        tags = {"outcome": record.outcome, "reason": record.reason}
        reached = [rung for rung in self._sweep.rungs if rung <= max(record.reports, default=0)]
        if reached:
            tags["rung"] = str(reached[-1])
        if record.notes:
            tags["notes"] = "\n".join(record.notes)
        self._tracker.end_trial(record.id, _STATUS[record.outcome], tags)

    def found(self, record: TrialRecord, checkpoint: Path, folder: Path) -> None:
        """The search's best trial: its features are kept as a function in `folder`, and MLflow gets them.

        Raises ConfigError where its checkpoint or its data cannot be read.
        """
        example = write_features(run_config(self._sweep, record), checkpoint, folder)
        self._tracker.log_model(record.id, example, max(record.reports))

    def held(self, record: TrialRecord) -> None:
        """A budget holds a trial up."""
        self._tracker.end_trial(record.id, "KILLED", {"outcome": "held", "reason": "a budget is used up"})

    def make_up_for(self, records: Iterable[TrialRecord]) -> None:
        """Tell what the study knows and the spool does not.

        That is what a driver died over between the two, and what was taken over from elsewhere.
        """
        self._early = self._tracker.spooled()
        for record in records:
            known = self._early.pop(record.id, set())
            missing = [epoch for epoch in sorted(record.reports) if epoch not in known]
            untold_end = record.outcome is not None and "end" not in known
            if (missing or untold_end) and "start" not in known:
                self.started(record)
            for epoch in missing:
                self.reported(record, epoch)
            if untold_end:
                self.ended(record)
            self._early[record.id] = known - record.reports.keys()


def run_config(sweep: Sweep, record: TrialRecord) -> RunConfig:
    """What a trial runs, with its fresh seed or half its micro-batch where it has them."""
    seed = {} if record.seed is None else {"seed": record.seed}
    run = sweep.resolve(record.values, seed)
    half = half_micro_batch(run) if record.halved else None
    return run if half is None else sweep.resolve(record.values, seed | half)


def dataset(run: RunConfig) -> dict[str, str]:
    """What a run learns from, as MLflow's Dataset has it.

    Its digest is of what the config says of the data, not of the images: those may be terabytes.
    """
    data = run.data
    identity = {
        "sets": [[name, one.dataset, one.data_path, one.class_list] for name, one in data.sets().items()],
        "val_fraction": data.val_fraction,
        "split_seed": data.split_seed,
    }
    places = {name: one.data_path or "with its package" for name, one in data.sets().items()}
    return {
        "name": data.title,
        "digest": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8],
        "source_type": "local",
        "source": json.dumps({"uri": next(iter(places.values()))} if len(places) == 1 else {"uris": places}),
        "profile": json.dumps(identity | {"image_size": data.image_size}),
    }


def _source() -> dict[str, str]:
    """MLflow's own tags for where a run comes from."""
    commit = environment().get("git_commit")
    own = {"mlflow.source.name": "hjepa-sweep", "mlflow.source.type": "LOCAL"}
    return own if commit is None else own | {"mlflow.source.git.commit": commit}


def _parameters(run: RunConfig) -> dict[str, Any]:
    """A run config's values by dotted key."""
    return {key: json.loads(value) for key, value in flat(run.model_dump(mode="json")).items()}
