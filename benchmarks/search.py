"""Epochs that a search spends until it has trained a configuration that is within 0.5 points of the best.

Curves are drawn from the freeze-thaw prior that the `ifbo` package ships: a world has four axes and a curve
for each point; the best is that of 256 points drawn at random. Every method sees the same worlds. Four
workers run at a time, an epoch takes each of them one unit of a simulated clock, and a trial counts when it
has run its 27 epochs. The curve is noisy and a trial's quality is its curve's without the noise.

Ours is the shipped sampler, rungs and agenda (orchestrator/simulate.py); the others are those projects'
own classes, told result by result (rivals.py). Who has spent `--cap` epochs in vain counts as `cap`.
"""

import argparse
import heapq
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import optuna
import torch
from ifbo.priors.ftpfn_prior import DatasetPrior  # pyright: ignore[reportMissingImports] (extra: benchmark)

from benchmarks.rivals import RIVALS, OneEpochThenTopK, Values
from orchestrator.simulate import simulate
from orchestrator.space import load_sweep
from orchestrator.study import TrialRecord

SPACE = Path(__file__).parent / "tabulated/prior.yaml"
EPOCHS, WORKERS, POINTS = 27, 4, 256
WITHIN = 0.005
OURS = {
    "ours": {},
    "ours, stopping": {"scheduler.type": "asha_stopping"},
    "ours, random": {"search.algorithm": "random"},
    "TPE": {"scheduler.type": "fifo"},
}


class World:
    """One draw from the prior."""

    def __init__(self, seed: int, keys: list[str]):
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.keys, self.prior = keys, DatasetPrior(len(keys), 23)
        self.prior.model.preactivation_noise_std = self.prior.model.output_noise = 0.0
        points = np.random.default_rng(seed).uniform(size=(POINTS, len(keys)))
        # Their noise aside: the mean of what one point gives at its end many times.
        self.best = max(self.quality(point) for point in points)

    def quality(self, point: np.ndarray) -> float:
        """What a point comes to at its end, its noise averaged away."""
        end = self.prior.curves_for_configs(point[None].astype(float))
        return float(np.mean(end(np.ones(64), 0)))

    def curve(self, values: Values) -> tuple[np.ndarray, float]:
        """A point's reports and quality."""
        point = np.array([values[key] for key in self.keys])
        curves = self.prior.curves_for_configs(point[None])
        return curves(np.arange(1, EPOCHS + 1) / EPOCHS, 0), self.quality(point)


def epochs_of_ours(world: World, seed: int, cap: int, changes: dict[str, str]) -> int:
    """Epochs until the goal, by the shipped parts."""
    sweep = load_sweep(SPACE, overrides={"search.seed": seed, **changes})
    good: dict[int, float] = {}

    def curve(record: TrialRecord) -> list[float]:
        # The base has no values of its own in this space's terms: it is a point like another.
        values = record.values or dict.fromkeys(world.keys, 0.5)
        reports, good[record.number] = world.curve({k: values.get(k, 0.5) for k in world.keys})
        return reports.tolist()

    for step in simulate(sweep, curve, WORKERS):
        if step.epoch == EPOCHS and good[step.trial.number] >= world.best - WITHIN:
            return step.epochs
        if step.epochs >= cap:
            return cap
    return cap


def epochs_of_rival(world: World, seed: int, cap: int, name: str) -> int:
    """Epochs until the goal, by another project's parts."""
    rival = RIVALS[name](world.keys, EPOCHS, seed)
    events: list[tuple[int, int, int]] = []
    at: dict[int, int] = {}
    curves: dict[int, tuple[np.ndarray, float]] = {}
    order, numbers = count(), count()
    waiting: list[tuple[float, int]] = []
    first = rival.first if isinstance(rival, OneEpochThenTopK) else None
    spent = now = 0
    while spent < cap:
        while len(events) < WORKERS:
            if first is not None and len(curves) >= first:
                if len(waiting) + len(events) < first and not waiting:
                    break
                trial = heapq.heappop(waiting)[1]
            else:
                trial = next(numbers)
                curves[trial] = world.curve(rival.propose(trial))
            at[trial] = at.get(trial, 0)
            heapq.heappush(events, (now + 1, next(order), trial))
        if not events:
            return cap
        now, _, trial = heapq.heappop(events)
        spent += 1
        at[trial] += 1
        reports, quality = curves[trial]
        value = float(reports[at[trial] - 1])
        goes_on = rival.goes_on(trial, at[trial], value)
        if at[trial] == EPOCHS:
            if quality >= world.best - WITHIN:
                return spent
        elif first is not None and at[trial] == 1:
            heapq.heappush(waiting, (-value, trial))
        elif goes_on:
            heapq.heappush(events, (now + 1, next(order), trial))
    return cap


def interval(values: list[int]) -> tuple[float, float]:
    """A 95% bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, size=(2000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--cap", type=int, default=5000, help="epochs after which a search is given up")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no world after these")
    parser.add_argument("--only", nargs="*", help="names of methods; default: all")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    keys = list(load_sweep(SPACE).config.space)
    methods: dict[str, Callable[[World, int], int]] = {
        name: lambda world, seed, changes=changes: epochs_of_ours(world, seed, arguments.cap, changes)
        for name, changes in OURS.items()
    } | {
        name: lambda world, seed, name=name: epochs_of_rival(world, seed, arguments.cap, name)
        for name in RIVALS
    }
    found: dict[str, list[int]] = {name: [] for name in arguments.only or methods}
    began = time.monotonic()
    for seed in range(arguments.seeds):
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        world = World(seed, keys)
        for name, spent in found.items():
            np.random.seed(seed)
            torch.manual_seed(seed)
            spent.append(methods[name](world, seed))
            print(f"seed {seed} {name}: {spent[-1]}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    print(f"commit {commit.strip()}, load {os.getloadavg()[0]:.0f}, {len(next(iter(found.values())))} worlds")
    for name, spent in sorted(found.items(), key=lambda pair: statistics.median(pair[1])):
        low, high = interval(spent)
        failed = sum(epochs >= arguments.cap for epochs in spent)
        print(f"{name:28} {statistics.median(spent):7.0f} [{low:.0f}, {high:.0f}]  in vain {failed}")


if __name__ == "__main__":
    main()
