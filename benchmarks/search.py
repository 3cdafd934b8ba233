"""Epochs that a search spends until it has trained a configuration that is within 0.5 points of the best.

On two kinds of worlds (worlds.py): this project's own runs of 288 configurations, or curves drawn from the
prior that the `ifbo` package ships. Every method sees the same ones. Four workers run at a time, an epoch
takes each of them one unit of a simulated clock, and a trial counts when it has run its 27 epochs. Curves are
noisy, and a trial's quality is its curve's end without the noise.

Ours is the shipped sampler, rungs and agenda (orchestrator/planning/simulate.py); the others are those
projects' own classes, told result by result (rivals.py). Who has spent `--cap` epochs in vain counts so.
"""

import argparse
import heapq
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.rivals import RIVALS, OneEpochThenTopK
from benchmarks.worlds import EPOCHS, WORLDS, World
from orchestrator.planning.simulate import simulate
from orchestrator.space import load_sweep
from orchestrator.study.record import TrialRecord

WORKERS = 4
WITHIN = 0.005
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, TPE": {"search.algorithm": "tpe"},
    "ours, random": {"search.algorithm": "random"},
    "ours, stopping": {"scheduler.type": "asha_stopping"},
    "ours, one bracket": {"scheduler.brackets": 1},
    "ours, no stopping": {"scheduler.type": "fifo"},
    "TPE": {"search.algorithm": "tpe", "scheduler.type": "fifo"},
}


def epochs_of_ours(world: World, seed: int, cap: int, changes: dict[str, Any]) -> int:
    """Epochs until the goal, by the shipped parts."""
    sweep = load_sweep(world.space, overrides={"search.seed": seed, **world.search, **changes})
    good: dict[int, float] = {}

    def curve(record: TrialRecord) -> list[float]:
        reports, good[record.number] = world.trial(record.values)
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
    parser.add_argument("--worlds", choices=WORLDS, default="table", help="default: table")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--cap", type=int, default=3000, help="epochs after which a search is given up")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no world after these")
    parser.add_argument("--only", nargs="*", help="names of methods; default: all")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
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
        world = WORLDS[arguments.worlds](seed)
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
