"""What the sampler proposes for a trial, drawn again where it breaks a constraint or has been run already."""

import math
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study as OptunaStudy
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from orchestrator.space import ConfigError
from orchestrator.space.design import every_run
from orchestrator.space.simplex import key_of

if TYPE_CHECKING:
    from orchestrator.space import Sweep

ATTEMPT = "hjepa:attempt"
"""System attribute in which the sampler is told how often it has been asked for the trial before."""
MAX_ATTEMPTS = 3000
MAX_REASONS = 20
"""Reasons for passing proposals over that are told apart in a trial's record."""
FADING = 10
"""Trials after which a prior's weight is halved."""
NEAR = 0.1
"""Standard deviation around a prior, as a share of the range."""


class NothingLeftError(ConfigError):
    """A search has nothing more to propose."""


@dataclass(frozen=True)
class Proposal:
    """Values for a trial."""

    values: dict[str, Any]
    identity: str
    """Of the run that they make."""
    passed_over: dict[str, int]
    """How often something else was proposed first, by why it is not run."""


def propose(
    study: OptunaStudy, sweep: "Sweep", number: int, trial_id: int, known: Mapping[str, int]
) -> Proposal:
    """The sampler's first proposal for trial `number` that keeps the constraints and is none of `known`.

    Where it finds none and the space is countable, the first configuration that is left. `known` are the
    numbers of trials by the identity of their run. The draws depend on the search's seed, the trial's number
    and the study, on no more. Raises NothingLeftError where there is nothing left to propose.
    """
    passed_over: Counter[str] = Counter()

    def pass_over(reason: str) -> None:
        listed = reason in passed_over or len(passed_over) < MAX_REASONS
        passed_over[reason if listed else "is not run for another reason"] += 1

    for attempt in range(MAX_ATTEMPTS):
        values = sweep.suggest(_Draw(study, sweep, number, trial_id, attempt))
        refused = sweep.refused(values)
        if refused is not None:
            pass_over(refused)
            continue
        identity = sweep.identity(values)
        twin = known.get(identity)
        if twin is None:
            return Proposal(values, identity, dict(passed_over))
        pass_over(f"is trial {twin:04d} again")
    countable = every_run(sweep)
    for identity, values in () if countable is None else countable:
        if identity not in known:
            return Proposal(values, identity, dict(passed_over))
    if countable is None:
        why = f"{MAX_ATTEMPTS:,} proposals for the next brought nothing new that keeps the constraints"
    else:
        why = "each configuration of the space has been run"
    raise NothingLeftError(why)


class _Draw(FixedTrial):
    """Takes values from the sampler as Optuna's own trial would, and writes none of them down."""

    def __init__(self, study: OptunaStudy, sweep: "Sweep", number: int, trial_id: int, attempt: int):
        super().__init__({}, number)
        self._study, self._sweep, self._attempt = study, sweep, attempt
        self._frozen = FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=None,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={ATTEMPT: attempt},
            intermediate_values={},
            trial_id=trial_id,
        )
        joint = study.sampler.infer_relative_search_space(study, self._frozen)
        self._jointly = study.sampler.sample_relative(study, self._frozen, joint)
        self._near: dict[str, np.random.Generator | None] = {}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._suggested_params:
            self._suggested_params[name] = self._drawn(name, distribution)
            self._distributions[name] = distribution
        return self._suggested_params[name]

    def _drawn(self, name: str, distribution: BaseDistribution) -> Any:
        key = key_of(name)
        rng = self._leaning(key)
        prior = self._sweep.config.space[key].prior
        if rng is not None and prior is not None:
            return near(self._sweep.params({key: prior.value})[name], distribution, rng)
        if isinstance(distribution, CategoricalDistribution) and distribution.single():
            return distribution.choices[0]
        if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.single():
            return distribution.low
        if name in self._jointly:
            return self._jointly[name]
        return self._study.sampler.sample_independent(self._study, self._frozen, name, distribution)

    def _leaning(self, key: str) -> np.random.Generator | None:
        """What draws values near the prior of `key`, where this proposal leans to it."""
        prior = self._sweep.config.space[key].prior
        if prior is not None and key not in self._near:
            place = (self._sweep.config.search.seed, self.number, self._attempt, zlib.crc32(key.encode()))
            rng = np.random.default_rng(np.random.SeedSequence(place))
            leans = rng.random() < prior.confidence / (1 + max(0, self.number - 1) / FADING)
            self._near[key] = rng if leans else None
        return self._near.get(key)


def near(value: Any, distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """A value near `value`: of choices itself, of a range a normal deviate, no further than its ends."""
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return value
    log, low, high = distribution.log, distribution.low, distribution.high
    there, back = (math.log, math.exp) if log else (float, float)
    drawn = rng.normal(there(value), NEAR * (there(high) - there(low)))
    number = min(max(back(drawn), low), high)
    if distribution.step is None:
        return number
    steps = round((number - low) / distribution.step)
    return min(high, low + steps * distribution.step)
