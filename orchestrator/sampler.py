"""Optuna's samplers as a sweep uses them: the same draws whether or not it was interrupted."""

import copy
import warnings
import zlib
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState

from orchestrator.proposal import ATTEMPT

if TYPE_CHECKING:
    from orchestrator.space import Sweep

POPULATION = 16
"""Completed trials of a generation of NSGA-II; with its usual 50 most sweeps would end in the first."""
LEARNED_ATTEMPTS = 100
"""Proposals for a trial that TPE makes before it is left to chance to find one that may be run."""


def build_sampler(sweep: "Sweep") -> BaseSampler:
    """The sampler of a sweep."""
    return NumberedSampler(sweep.config.search.algorithm, sweep.config.search.seed)


class TrialsView:
    """An Optuna study as its sampler is to see it: what an open trial has reported counts.

    An open trial would else be taken for a bad one (`constant_liar`), and of promoting ASHA's trials most
    are open, waiting at a rung. Here it is one that was pruned where it stands.
    """

    def __init__(self, study: OptunaStudy):
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = map(_as_it_stands, self._study._get_trials(deepcopy=False, states=None, use_cache=use_cache))
        return [trial for trial in found if states is None or trial.state in states]


def _as_it_stands(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.RUNNING or not trial.intermediate_values:
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    seen.value = trial.intermediate_values[max(trial.intermediate_values)]
    return seen


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
        return self._jointly.infer_relative_search_space(_view(study), trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._jointly.sample_relative(_view(study), trial, search_space)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        own = self._build(trial, zlib.crc32(param_name.encode()))
        return own.sample_independent(_view(study), trial, param_name, param_distribution)

    def after_trial(
        self,
        study: OptunaStudy,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._jointly.after_trial(study, trial, state, values)


def _view(study: OptunaStudy) -> OptunaStudy:
    return cast(OptunaStudy, TrialsView(study))
