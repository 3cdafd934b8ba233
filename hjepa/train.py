"""The training loop, as a generator of one report per epoch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hjepa.config import RunConfig
from hjepa.judge import evaluate
from hjepa.optim import learning_rate
from hjepa.run import Run, build_run, joined, random_stream
from hjepa.step import Meter, train_step


@dataclass(frozen=True)
class Report:
    """What a run says at the end of an epoch."""

    epoch: int
    """Epochs done, counted from 1."""
    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]
    """Means over the epoch under train/, evaluation under val/ where one was due, speed under time/, there
    data_wait, the share of the epoch's steps that was spent waiting for images."""
    collapsed: str | None
    """Why the features count as collapsed; such a run ends with this report."""
    save: Callable[[Path], None] = field(repr=False)
    """Write a checkpoint from which `train` goes on; valid until the next report is asked for. Of several
    processes the first one writes."""


def train(config: RunConfig, resume: str | Path | None = None) -> Iterator[Report]:
    """Train, and report after every epoch; closing the generator stops the run.

    With `resume`, a checkpoint of the same run, goes on after its epoch with the numbers that an
    uninterrupted run would give (to the bit on CPU at the same number of threads). Each epoch
    draws from a random stream of its own, made from (seed, epoch), and leaves the process's
    generators as it found them, so nothing between two reports can disturb it.

    Of several processes (`distributed`) each runs this and gets the same reports; the first one saves.
    A process group that is there already is used, else one is made and taken down again.

    Raises ConfigError where the data does not fit, NonFiniteError where the loss stops being a number.
    """
    with joined(config):
        run = build_run(config, pretrained=resume is None)
        if resume is not None:
            run.load(Path(resume))
        run.team.meet()
        yield from train_run(run)


def train_run(run: Run) -> Iterator[Report]:
    """`train` of a run that is built already."""
    config = run.config
    while run.epoch < config.training.epochs:
        with random_stream(config.seed, run.epoch + 1):
            metrics, collapsed = train_epoch(run), None
        run.epoch += 1
        if run.epoch % config.evaluation.eval_frequency == 0 or run.epoch == config.training.epochs:
            evaluated, collapsed = evaluate(run)
            metrics |= evaluated
        metrics, collapsed = run.team.agree((metrics, collapsed))
        yield Report(run.epoch, run.step, metrics, collapsed, run.save)
        if collapsed:
            return


def train_epoch(run: Run) -> dict[str, float]:
    """One pass over the training images; the epoch's mean metrics."""
    config, start, waited_s = run.config, time.perf_counter(), run.data_wait_s
    meter = Meter(config.logging.log_frequency, run.team)
    order = run.data.mixture.order(run.steps_per_epoch * run.batch)
    batches = [run.share.take(batch) for batch in np.split(order, run.steps_per_epoch)]
    run.model.train()
    with run.data.train.ahead(batches):
        for batch in batches:
            meter.add(train_step(run, batch), run.step)
            run.step += 1
    metrics = meter.means()
    if config.data.use_multi_dataset and config.logging.log_dataset_distribution:
        metrics |= {f"data/{name}_images": drawn for name, drawn in run.data.mixture.drawn(order).items()}
    if run.data.bad:
        metrics["data/bad_images"] = run.data.bad
    metrics["train/lr"] = learning_rate(config.training, run.step - 1, run.steps_per_epoch)
    seconds = time.perf_counter() - start
    metrics["time/images_per_s"] = run.steps_per_epoch * run.batch / seconds
    metrics["time/epoch_s"] = seconds
    metrics["time/data_wait"] = (run.data_wait_s - waited_s) / seconds
    return metrics
