"""Optuna's samplers, and the queue of trials as a Ray Tune searcher."""

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from orchestrator.proposal import ATTEMPT
from orchestrator.space import Sweep

FINISHED = Searcher.FINISHED
POPULATION = 16
"""Completed trials of a generation of NSGA-II; with its usual 50 most sweeps would end in the first."""
LEARNED_ATTEMPTS = 100
"""Proposals for a trial that TPE makes before it is left to chance to find one that may be run."""


def build_sampler(sweep: Sweep) -> BaseSampler:
    """The sampler of a sweep."""
    return NumberedSampler(sweep.config.search.algorithm, sweep.config.search.seed)


class NumberedSampler(BaseSampler):
    """A sampler whose draws for a trial depend on the seed, the trial's number and the study, on no more.

    Asked for a trial again, since what it proposed is not to be run, it draws afresh. So a sweep that is
    gone on with proposes what it would have proposed without the interruption.
    """

    def __init__(self, algorithm: str, seed: int):
        self._algorithm, self._seed = algorithm, seed
        self._jointly: BaseSampler = RandomSampler()

    def _build(self, trial: FrozenTrial, *place: int) -> BaseSampler:
        attempt = trial.system_attrs.get(ATTEMPT, 0)
        place = (self._seed, trial.number, *place, *([attempt] if attempt else []))
        (seed,) = np.random.SeedSequence(place).generate_state(1)
        if self._algorithm == "nsga2" and attempt < LEARNED_ATTEMPTS:
            return NSGAIISampler(seed=int(seed), population_size=POPULATION)
        if self._algorithm != "tpe" or attempt >= LEARNED_ATTEMPTS:
            return RandomSampler(seed=int(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Grouped, since keys under a `when:` are not in every trial; a multivariate sampler
            # without groups draws those independently of the rest.
            return TPESampler(seed=int(seed), multivariate=True, group=True, constant_liar=True)

    def infer_relative_search_space(
        self, study: OptunaStudy, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        self._jointly = self._build(trial)
        return self._jointly.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._jointly.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        own = self._build(trial, zlib.crc32(param_name.encode()))
        return own.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: OptunaStudy,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._jointly.after_trial(study, trial, state, values)


class TuneSearcher(Searcher):
    """Hands Tune the sweep's next trial; who is next, the sweep decides."""

    def __init__(self, next_trial: Callable[[], dict[str, Any] | str | None]):
        """`next_trial` gives a trial's Tune config, None to be asked again later, or FINISHED."""
        super().__init__()
        self._next_trial = next_trial

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher, and the sweep must not be in there."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        return self._next_trial()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the scheduler hears of every end first, and the study with it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record."""
