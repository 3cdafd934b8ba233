"""What a further trial costs before it learns: seconds from one trial's last report to the next one's
first training step, in the same place, for three ways of running trials on Ray.

  warm    orchestrator.engine.engine.run_trials: one process goes on from trial to trial
  fresh   Ray Tune with the same TrialActor, but a process for each trial (reuse_actors=False)
  train   a ray.train.torch.TorchTrainer of one worker inside each Tune trial, running the same
          generator: the usual pairing of Ray Train and Tune

Each way runs tiny trials one after another: two short epochs on digits, one core, one thread. The figures
are read from what the trials write. The clock starts with the last line of a trial's metrics.jsonl,
written as its last report is handed over. It stops where the next trial's first epoch starts: the time
of its first line, less the epoch's own seconds. In between are Ray's round trip, the start of whatever
processes, the loading of data, and the building of model and optimizer, which is the generator's first
act; and, since the first line is written after it, one small checkpoint. The first epoch is not
evaluated. The first trial of each way is not counted, for nothing precedes it. The study, the sampler
and MLflow's spool of a real sweep are left out: they would be the same in every way.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.engine.engine import local_ray, run_trials  # isort: skip (sets what Ray reads on import)

import ray.train
import torch
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from hjepa.config import RunConfig
from hjepa.records import JsonLines
from hjepa.schema import Layers
from hjepa.train import train
from orchestrator.engine.queue import FINISHED, TuneSearcher
from orchestrator.engine.trial import Task, TrialActor
from orchestrator.process.stopping import Stop
from orchestrator.space import ResourcesConfig

TINY_RUN: dict[str, Any] = {
    "model": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "num_hierarchies": 1},
    "loss": {"hierarchy_weights": [1.0]},
    "training": {"epochs": 2},
    "evaluation": {"eval_frequency": 2},
    "device": "cpu",
    "threads": 1,
}
ONE_PLACE = ResourcesConfig(cpus_per_worker=1, concurrency=1)
Trials = Iterator[dict[str, Any]]


class Onlooker:
    """Lets every trial go on to its end."""

    def tick(self) -> list[int]:
        return []

    def running(self) -> int:
        """One, by one: no other is begun beside it."""
        return 1

    def started(self, config: dict[str, Any]) -> None:
        """Nothing."""

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        return True

    def crashed(self, config: dict[str, Any], error: str) -> None:
        print(f"trial {Task.of(config).number} crashed: {error}", file=sys.stderr)


def run_warm(trials: Trials, scratch: Path) -> None:
    """As a sweep does."""
    run_trials(ONE_PLACE, lambda: next(trials, FINISHED), Onlooker(), Stop(), scratch)


def run_fresh(trials: Trials, scratch: Path) -> None:
    """As `run_trials`, without reuse."""
    _tune(tune.with_resources(TrialActor, {"cpu": 1}), trials, scratch)


def run_train(trials: Trials, scratch: Path) -> None:
    """A Ray Train run in each Tune trial; the trial itself only waits, so the core goes to the worker."""

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_in_worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.99}),
            run_config=ray.train.RunConfig(
                name=f"train-{Task.of(config).number}",
                storage_path=str(scratch / "train"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    # The trials' own share leaves room for many; a second one would wait for the worker's core.
    _tune(tune.with_resources(trial, {"cpu": 0.01}), trials, scratch, at_a_time=1)


def train_in_worker(config: dict[str, Any]) -> None:
    """A trial, recorded as `TrialActor` does it."""
    task = Task.of(config)
    records = JsonLines(Path(task.folder) / "metrics.jsonl")
    for report in train(task.run_config()):
        report.save(Path(task.folder) / f"epoch_{report.epoch:05d}.pt")
        records.write({"epoch": report.epoch, "time": time.time()} | report.metrics)
        ray.train.report(report.metrics)


def _tune(trainable: Any, trials: Trials, scratch: Path, at_a_time: int | None = None) -> None:
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(lambda: next(trials, FINISHED)),
            num_samples=-1,
            max_concurrent_trials=at_a_time,
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            verbose=0,
            # A TrialActor keeps its own checkpoints, and does not know Tune's.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


WAYS: dict[str, Callable[[Trials, Path], None]] = {
    "warm": run_warm,
    "fresh": run_fresh,
    "train": run_train,
}


def startups(way: str, count: int) -> list[float]:
    """Seconds of `count` start-ups."""
    layers = Layers()
    layers.add(TINY_RUN, "the benchmark")
    run = layers.build(RunConfig, "the benchmark").model_dump_json()
    with tempfile.TemporaryDirectory() as folder, local_ray(ONE_PLACE) as scratch:
        tasks = [Task(number, run, str(Path(folder) / str(number))) for number in range(count + 1)]
        WAYS[way]((task.config() for task in tasks), scratch)
        lines = [(Path(task.folder) / "metrics.jsonl").read_text().splitlines() for task in tasks]
    first = [json.loads(of_trial[0]) for of_trial in lines]
    last = [json.loads(of_trial[-1]) for of_trial in lines]
    return [
        after["time"] - after["time/epoch_s"] - before["time"]
        for before, after in zip(last, first[1:], strict=False)
    ]


def show(measured: dict[str, list[float]]) -> None:
    """Print the figures."""
    print(
        f"seconds before a further trial's first step; {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, Ray {ray.__version__}"
    )
    for way, seconds in measured.items():
        middle = statistics.median(seconds)
        ratio = f"{middle / statistics.median(measured['warm']):.0f} x warm" if "warm" in measured else ""
        print(
            f"{way:6} median {middle:7.3f}, from {min(seconds):.3f} to {max(seconds):.3f}, "
            f"of {len(seconds)}  {ratio}"
        )


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example:\n  python -m benchmarks.trial_overhead --warm 20 --fresh 0 --train 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for way, count in (("warm", 3), ("fresh", 3), ("train", 2)):
        parser.add_argument(
            f"--{way}",
            type=int,
            default=count,
            help="start-ups a round, 0 for none (default %(default)s)",
        )
    parser.add_argument(
        "--rounds", type=int, default=2, help="times that the ways take turns (default %(default)s)"
    )
    options = vars(parser.parse_args())
    logging.getLogger("ray").setLevel(logging.ERROR)
    measured: dict[str, list[float]] = {}
    for _ in range(options["rounds"]):
        for way in WAYS:
            if options[way] > 0:
                measured.setdefault(way, []).extend(startups(way, options[way]))
    show(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
