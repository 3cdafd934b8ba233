"""The seam to hjepa: a trial's reports handed to Ray Tune, from a process that stays warm between trials."""

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ray import tune

from hjepa.config import RunConfig
from hjepa.judge import baselines
from hjepa.records import JsonLines
from hjepa.schema import to_yaml
from hjepa.step import NonFiniteError
from hjepa.train import Report, train

KEPT_CHECKPOINTS = 2
"""The newest, and the one before in case the newest is torn."""


@dataclass(frozen=True)
class Task:
    """What a trial's process is told; plain data, for it travels as a Tune config."""

    number: int
    """The trial's number in the study."""
    run: str
    """Its run config, as JSON."""
    folder: str
    """Its own folder, absolute."""
    resume: str | None = None
    """Checkpoint to go on from, absolute."""
    baselines: bool = False
    """Whether the first report shall hold what learning has to beat."""

    def run_config(self) -> RunConfig:
        """Its run config."""
        return RunConfig.model_validate_json(self.run, strict=True)

    @property
    def resumes_after(self) -> int:
        """Epochs that its checkpoint holds; 0 without one."""
        return int(Path(self.resume).stem.removeprefix("epoch_")) if self.resume else 0

    def config(self) -> dict[str, Any]:
        """As a Tune config."""
        return {"task": asdict(self)}

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """From a Tune config."""
        return cls(**config["task"])


@dataclass(frozen=True)
class Outcome:
    """What a trial's process says after an epoch."""

    epoch: int
    """Epochs done; of a failed trial, those before the failure."""
    metrics: dict[str, float]
    checkpoint: str | None
    """Checkpoint of this epoch, its name inside the trial's folder."""
    finished: bool
    """Whether this was its last epoch."""
    collapsed: str | None = None
    """Why its features count as collapsed."""
    failure: str | None = None
    """Why it cannot go on."""
    began: float = 0.0
    """Unix time at which the epoch's computation was asked for, in seconds."""

    def result(self) -> dict[str, Any]:
        """As a Tune result."""
        over = self.finished or self.collapsed is not None or self.failure is not None
        # A tuple is opaque to Tune, which flattens dicts and joins their keys by slashes.
        return {"outcome": (asdict(self),), "done": over}

    @classmethod
    def of(cls, result: dict[str, Any]) -> Self:
        """From a Tune result."""
        return cls(**result["outcome"][0])


class TrialActor(tune.Trainable):
    """Runs one trial after another; between them Python, torch, device and data stay loaded."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take on a trial."""
        self.reports: Iterator[Report] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the last trial and take on the next; always possible.

        Touches no file: Tune may start a process for a trial and then give it to another one that has
        become free, and the first must not undo what the second has written.
        """
        self.cleanup()
        self.task = Task.of(new_config)
        self.run = self.task.run_config()
        self.folder = Path(self.task.folder)
        self.records = JsonLines(self.folder / "metrics.jsonl")
        self.epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        """One epoch and its checkpoint."""
        began = time.time()
        first = self.reports is None
        if self.reports is None:
            self.reports = self._begin()
        try:
            report = next(self.reports)
        except NonFiniteError as error:
            return Outcome(self.epoch, {}, None, False, failure=str(error), began=began).result()
        self.epoch = report.epoch
        metrics = dict(report.metrics)
        if first and self.task.baselines:
            metrics |= baselines(self.run)
        checkpoint = self.folder / f"epoch_{report.epoch:05d}.pt"
        report.save(checkpoint)
        for old in sorted(self.folder.glob("epoch_*.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink(missing_ok=True)
        self.records.write({"epoch": report.epoch, "step": report.step, "time": time.time()} | metrics)
        finished = report.epoch == self.run.training.epochs
        return Outcome(
            report.epoch, metrics, checkpoint.name, finished, report.collapsed, began=began
        ).result()

    def _begin(self) -> Iterator[Report]:
        """Put the trial's folder in order, and begin or go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for torn in self.folder.glob(".epoch_*.tmp"):  # of a process killed while it saved
            torn.unlink(missing_ok=True)
        (self.folder / "config.yaml").write_text(to_yaml(self.run), encoding="utf-8")
        self.records.keep(lambda line: line["epoch"] <= self.task.resumes_after)
        return train(self.run, resume=self.task.resume)

    def cleanup(self) -> None:
        """Stop the trial."""
        if isinstance(self.reports, Generator):
            self.reports.close()
        self.reports = None


def resources(cpus: int, gpus: float) -> tune.PlacementGroupFactory:
    """What one trial's process occupies."""
    return tune.PlacementGroupFactory([{"CPU": float(cpus), "GPU": float(gpus)}])
