"""Other projects' searches and schedulers, driven result by result without their processes.

Each is told of every report as its own loop would tell it, and answers whether the trial goes on.
"""

from collections.abc import Callable, Mapping
from itertools import cycle, product
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

Values = dict[str, float]


class Rival(Protocol):
    """Proposes trials and judges their reports."""

    def propose(self, trial: int) -> Values:
        """Values of a new trial, each in [0, 1]."""
        ...

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        """Take in a report; at the last epoch the answer is not asked for."""
        ...


class Random:
    """Random values, every trial to its end."""

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        self.keys, self.epochs = keys, epochs
        self.random = np.random.default_rng(seed)

    def propose(self, trial: int) -> Values:
        return dict(zip(self.keys, self.random.uniform(size=len(self.keys)).tolist(), strict=True))

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        return True


class Grid(Random):
    """The points of a grid in their order, over and over, every trial to its end."""

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        super().__init__(keys, epochs, seed)
        axes = [[(i + 0.5) / levels for i in range(levels)] for levels in keys.values()]
        self.points = cycle(product(*axes))

    def propose(self, trial: int) -> Values:
        return dict(zip(self.keys, next(self.points), strict=True))


class OneEpochThenTopK(Random):
    """One epoch for each of `first`; then the best of them in order to the end (see `search.py`)."""

    first = 100


class RayAsha(Random):
    """Random values and Ray's ASHA; with several brackets, asynchronous Hyperband."""

    brackets = 1

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        super().__init__(keys, epochs, seed)
        np.random.seed(seed)
        self.scheduler = ASHAScheduler(
            time_attr="epoch", metric="value", mode="max", max_t=epochs, grace_period=1,
            reduction_factor=3, brackets=self.brackets,
        )  # fmt: skip
        self.trials: dict[int, Any] = {}

    def propose(self, trial: int) -> Values:
        self.trials[trial] = SimpleNamespace(trial_id=f"{trial:05d}")
        self.scheduler.on_trial_add(None, self.trials[trial])  # pyright: ignore[reportArgumentType]
        return super().propose(trial)

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        result = {"epoch": epoch, "value": value}
        answer = self.scheduler.on_trial_result(None, self.trials[trial], result)  # pyright: ignore[reportArgumentType]
        return answer == TrialScheduler.CONTINUE


class RayHyperband(RayAsha):
    """As above with three brackets."""

    brackets = 3


class RayAshaOptuna(RayAsha):
    """Ray's ASHA and its OptunaSearch, which hears of a stopped trial's last value as of a finished one's."""

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        super().__init__(keys, epochs, seed)
        space = {key: optuna.distributions.FloatDistribution(0, 1) for key in keys}
        self.searcher = OptunaSearch(
            space, metric="value", mode="max", sampler=optuna.samplers.TPESampler(seed=seed)
        )

    def propose(self, trial: int) -> Values:
        super().propose(trial)
        suggested: Any = self.searcher.suggest(f"{trial:05d}")
        return dict(suggested)

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        goes_on = super().goes_on(trial, epoch, value)
        result = {"value": value, "training_iteration": epoch}
        if goes_on and epoch < self.epochs:
            self.searcher.on_trial_result(f"{trial:05d}", result)
        else:
            self.searcher.on_trial_complete(f"{trial:05d}", result)
        return goes_on


class OptunaHyperband(Random):
    """Optuna's TPE and its HyperbandPruner."""

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        super().__init__(keys, epochs, seed)
        self.study = optuna.create_study(
            direction="maximize",
            study_name=f"study {seed}",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3),
        )
        self.trials: dict[int, optuna.Trial] = {}

    def propose(self, trial: int) -> Values:
        self.trials[trial] = asked = self.study.ask()
        return {key: asked.suggest_float(key, 0, 1) for key in self.keys}

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        self.trials[trial].report(value, epoch)
        if epoch == self.epochs:
            self.study.tell(self.trials[trial], value)
        elif self.trials[trial].should_prune():
            self.study.tell(self.trials[trial], state=optuna.trial.TrialState.PRUNED)
            return False
        return True


class SyneTune(Random):
    """One of Syne Tune's schedulers."""

    name = "ASHA"

    def __init__(self, keys: dict[str, int], epochs: int, seed: int):
        super().__init__(keys, epochs, seed)
        from syne_tune.config_space import uniform  # pyright: ignore[reportMissingImports] (extra: benchmark)
        from syne_tune.optimizer import baselines  # pyright: ignore[reportMissingImports] (extra: benchmark)

        kind: Callable[..., Any] = getattr(baselines, self.name)
        np.random.seed(seed)
        self.scheduler = kind(
            {key: uniform(0, 1) for key in keys}, metric="value", do_minimize=False, time_attr="epoch",
            max_t=epochs, grace_period=1, reduction_factor=3, random_seed=seed,
        )  # fmt: skip
        self.trials: dict[int, Any] = {}

    def propose(self, trial: int) -> Values:
        suggestion: Mapping[str, Any] = self.scheduler.suggest().config
        self.trials[trial] = SimpleNamespace(trial_id=trial, config=dict(suggestion))
        self.scheduler.on_trial_add(self.trials[trial])
        return dict(suggestion)

    def goes_on(self, trial: int, epoch: int, value: float) -> bool:
        result = {"epoch": epoch, "value": value}
        if epoch == self.epochs:
            self.scheduler.on_trial_complete(self.trials[trial], result)
            return True
        return self.scheduler.on_trial_result(self.trials[trial], result) == "CONTINUE"


class SyneTuneBohb(SyneTune):
    """Its BOHB."""

    name = "BOHB"


RIVALS: dict[str, type[Random]] = {
    "random": Random,
    "grid": Grid,
    "one epoch, then the best": OneEpochThenTopK,
    "random, Ray's ASHA": RayAsha,
    "Ray's ASHA, 3 brackets": RayHyperband,
    "Ray's ASHA, OptunaSearch": RayAshaOptuna,
    "Optuna's Hyperband": OptunaHyperband,
    "Syne Tune's ASHA": SyneTune,
    "Syne Tune's BOHB": SyneTuneBohb,
}
