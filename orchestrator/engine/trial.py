"""The seam to hjepa: a trial's reports handed to Ray Tune, from a process that stays warm between trials."""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from ray import tune

from hjepa.config import RunConfig
from hjepa.distributed import TIMEOUT as TIMEOUT  # for the group, which may not import the core
from hjepa.distributed import LostRankError as LostRankError
from hjepa.distributed import require_divisible, team_of
from hjepa.features import write_features as write_features  # for MLflow's record, likewise
from hjepa.judge import baselines
from hjepa.pace import Pace as Pace  # for the probe
from hjepa.rate import Rate as Rate  # for packing
from hjepa.records import JsonLines
from hjepa.run import Run, build_run, check_run_data
from hjepa.run import pick_device as pick_device  # for packing
from hjepa.schema import ConfigError, to_yaml
from hjepa.step import NonFiniteError
from hjepa.train import Report, train_run
from orchestrator.engine.failure import in_one_line
from orchestrator.storage.checkpoints import CONFIG, METRICS, Checkpoints, StoredCheckpoints, checkpoint_name
from orchestrator.storage.disk import PAUSE_S, awaited, explain


@dataclass(frozen=True)
class Task:
    """What a trial's process is told; plain data, for it travels as a Tune config."""

    number: int
    """The trial's number in the study."""
    run: str
    """Its run config, as JSON."""
    folder: str
    """Its own folder, absolute."""
    resume: tuple[str, ...] = ()
    """Checkpoints to go on from, absolute, newest first: the first one that can be read is taken."""
    stores: tuple[str, ...] = ()
    """URLs of folders of checkpoints: its own, to which they are written, and of the trials that it takes
    up. Empty: its folder keeps them."""
    reported: int = 0
    """Last epoch that the study has of it."""
    baselines: bool = False
    """Whether the first report shall hold what learning has to beat."""
    gpu_share: float = 1.0
    """Share of its GPU that each of its processes may fill."""
    only_here: bool = False
    """Whether no other machine could have the data that this one lacks."""
    working_dir: str = ""
    """Where relative paths of its run config go from: the sweep's own working directory."""

    def run_config(self) -> RunConfig:
        """Its run config."""
        return RunConfig.model_validate_json(self.run, strict=True)

    def config(self) -> dict[str, Any]:
        """As a Tune config."""
        return {"task": asdict(self)}

    def checkpoints(self) -> Checkpoints:
        """Where its process finds and keeps them."""
        if self.stores:
            return StoredCheckpoints(Path(self.folder), self.resume, self.stores, self.reported)
        return Checkpoints(Path(self.folder), self.resume)

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
    notes: tuple[str, ...] = ()
    """What else happened, in words."""
    paused: str | None = None
    """Why the epoch could not be written or begun yet, and until when; it is tried again."""
    began: float = 0.0
    """When the epoch's computation was asked for, in seconds by its process's monotonic clock."""
    seconds: float = 0.0
    """From then until its checkpoint was written."""

    def result(self) -> dict[str, Any]:
        """As a Tune result."""
        over = self.finished or self.collapsed is not None or self.failure is not None
        # A tuple is opaque to Tune, which flattens dicts and joins their keys by slashes.
        return {"outcome": (asdict(self),), "done": over}

    @classmethod
    def of(cls, result: dict[str, Any]) -> Self:
        """From a Tune result."""
        return cls(**result["outcome"][0])


class TrialWork:
    """A trial's computation in one process, epoch by epoch; of several processes each has its own."""

    def __init__(self, task: Task):
        """Touches no file: Tune may start a process for a trial and then give it to another one that has
        become free, and the first must not undo what the second has written.
        """
        self.task = task
        self.run = task.run_config()
        self.kept = task.checkpoints()
        self.written = 0
        """The last epoch whose checkpoint and record are written."""
        self.reports: Iterator[Report] | None = None
        self.leads = True
        """Whether this process is the one that writes."""
        self.epoch = 0
        self.measured = False
        self.notes: tuple[str, ...] = ()
        self.done: tuple[Report, Outcome] | Outcome | None = None
        """What has been computed and is not written yet."""

    @property
    def records(self) -> JsonLines:
        """A line for each epoch."""
        return JsonLines(self.kept.folder / METRICS)

    def step(self) -> Outcome:
        """One epoch and its checkpoint."""
        began = time.monotonic()
        try:
            if self.reports is None:
                self.reports = self._begin()
            if self.done is None:
                self.done = self._epoch(self.reports, began)
            outcome = self._save(*self.done) if isinstance(self.done, tuple) else self.done
        except OSError as error:
            passing = awaited(error)
            if passing is None:
                raise
            time.sleep(PAUSE_S)
            why = f"until {passing}: {explain(error)}"
            return Outcome(self.epoch, {}, None, False, paused=why, began=began)
        except ConfigError as error:
            # Of several processes the others wait for this one until it dies.
            if not self.task.only_here or team_of(self.run.distributed).size > 1:
                raise
            why = in_one_line(str(error))
            return Outcome(self.epoch, {}, None, False, failure=why, notes=self.notes, began=began)
        self.done, self.notes = None, ()
        return replace(outcome, seconds=time.monotonic() - outcome.began)

    def _epoch(self, reports: Iterator[Report], began: float) -> tuple[Report, Outcome] | Outcome:
        """Compute an epoch; a report that is still to be saved, or the trial's failure."""
        try:
            report = next(reports)
        except NonFiniteError as error:
            return Outcome(self.epoch, {}, None, False, failure=str(error), notes=self.notes, began=began)
        metrics = dict(report.metrics)
        if self.task.baselines and not self.measured:
            metrics |= baselines(self.run)
        self.epoch, self.measured = report.epoch, True
        return report, Outcome(
            report.epoch,
            metrics,
            checkpoint_name(report.epoch),
            report.epoch == self.run.training.epochs,
            report.collapsed,
            notes=self.notes,
            began=began,
        )

    def _save(self, report: Report, outcome: Outcome) -> Outcome:
        """Write the epoch's checkpoint and record."""
        if not self.leads:
            return outcome
        if self.written != report.epoch:
            self.kept.keep(report.save, report.epoch)
            line = {"epoch": report.epoch, "step": report.step, "time": time.time()}
            self.records.write(line | outcome.metrics)
            self.written = report.epoch
        self.kept.recorded()
        return outcome

    def _begin(self) -> Iterator[Report]:
        """Put the trial's folder in order, and begin or go on."""
        go_to(self.task.working_dir)
        cap_gpu_memory(self.task.gpu_share)
        team = team_of(self.run.distributed)
        self.leads = team.leads
        self.kept.begin(self.leads)
        if self.leads:
            (self.kept.folder / CONFIG).write_text(to_yaml(self.run), encoding="utf-8")
        run, taken = self._loaded() if self.leads else (build_run(self.run), None)
        if self.leads:
            self.records.keep(lambda line: line["epoch"] <= run.epoch)
        team.meet()
        # Last: after it no process may have to begin again without the others.
        taken = team.agree(taken)
        if not self.leads and taken is not None:
            with self.kept.at_hand(taken) as path:
                run.load(path)
        self.epoch = run.epoch
        return train_run(run)

    def _loaded(self) -> tuple[Run, str | None]:
        """The run as its newest readable checkpoint has it, and that file; or at its beginning."""
        run, taken, unread = build_run(self.run), None, []
        found = self.kept.found()
        for one in found:
            problem = self._read(run, one)
            if problem is not None:
                unread.append(problem)
                self.kept.set_aside(one)
                run = build_run(self.run)  # as it was before it was half loaded
                continue
            taken = one
            break
        if unread:
            goes_on = f"goes on after epoch {run.epoch}" if run.epoch else "begins anew"
            self.notes = (f"{goes_on}: {'; '.join(unread)}",)
        elif self.task.stores and self.task.reported and not found:
            self.notes = (f"begins anew: none of its checkpoints is at {self.task.stores[0]} any more",)
        return run, taken

    def _read(self, run: Run, one: str) -> str | None:
        """Put `run` where a checkpoint is; what is wrong with that, if something is."""
        with self.kept.at_hand(one) as path:
            try:
                run.load(path)
            except ConfigError as error:
                return str(error).replace(str(path), one).rstrip(".")
        return None

    def close(self) -> None:
        """Stop the trial."""
        if isinstance(self.reports, Generator):
            self.reports.close()
        self.reports = None
        self.kept.close()


class TrialActor(tune.Trainable):
    """Runs one trial after another; between them Python, torch, device and data stay loaded."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take on a trial."""
        self.work = TrialWork(Task.of(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Drop the last trial and take on the next; always possible."""
        self.work.close()
        self.work = TrialWork(Task.of(new_config))
        return True

    def step(self) -> dict[str, Any]:
        """One epoch and its checkpoint."""
        return self.work.step().result()

    def cleanup(self) -> None:
        """Stop the trial."""
        self.work.close()


def cap_gpu_memory(share: float) -> None:
    """Hold this process to its share of the GPU's memory, so that its overflow ends its own trial alone.

    What the CUDA context takes besides, some hundred MB, is not counted.
    """
    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def go_to(working_dir: str) -> None:
    """Let this process's relative paths go from there; without such a folder they stay as they are.

    Tune has its processes work in a folder of their trial's, and Ray those of another node wherever it was
    started there.
    """
    with suppress(OSError):
        os.chdir(working_dir)


def data_problem(run: str, working_dir: str) -> str | None:
    """What is wrong, on this machine, with the data of a run config, as JSON. The process goes to
    `working_dir`."""
    go_to(working_dir)
    try:
        check_run_data(RunConfig.model_validate_json(run, strict=True))
    except ConfigError as error:
        return str(error)
    return None


def half_micro_batch(run: RunConfig) -> dict[str, int] | None:
    """The keys that halve the memory of a step and leave its images alone; None where it cannot be halved."""
    mixes = run.data.augmentation.mixing is not None
    try:
        if run.data.batch_size % 2:
            return None
        require_divisible(run.data.batch_size // 2, run.distributed.world_size or 1, mixes)
    except ValueError:
        return None
    return {
        "data.batch_size": run.data.batch_size // 2,
        "training.accumulation_steps": run.training.accumulation_steps * 2,
    }
