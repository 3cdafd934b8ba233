"""Proposals by a Gaussian process: where the end of a trial is expected to be most above the best so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial
from scipy.stats import norm

from orchestrator.search.axes import Axes, Axis
from orchestrator.search.surrogate import Surrogate

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from orchestrator.space import Sweep

ANYWHERE, NEAR = 800, 400
"""Candidates for a proposal: drawn from the whole space, and near the best so far."""
PARENTS = 5
SHARES = (0.02, 0.05, 0.15)
"""How far from those they lie, as shares of the ranges."""
KEPT = 0.4
"""Chance that a parameter stays as it was."""

STARTS = 8
"""Trials drawn at random before."""
TRIES = 50
"""Candidates, from the most promising on, that are looked at for one that may be run."""

Params = Mapping[str, Any]
"""Optuna's parameters of a trial."""


@dataclass(frozen=True)
class Told:
    """What is known of trials."""

    ends: Sequence[tuple[Params, float, float]]
    """Each with what it would come to, larger ones better, and the variance of that."""
    pending: Sequence[Params]
    """Those that have told nothing yet."""


class Telling(Protocol):
    """A study that tells."""

    def told(self) -> Told:
        """What is known by now."""
        ...


class GaussianProcessSampler(BaseSampler):
    """Proposes one trial, with all keys at once, from what a `Telling` study knows."""

    def __init__(self, sweep: "Sweep", seed: int):
        self._sweep, self._seed = sweep, seed

    def infer_relative_search_space(
        self, study: OptunaStudy, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}  # it asks the sweep, which knows what a key depends on

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        told = cast(Telling, study).told()
        return {} if len(told.ends) < STARTS else proposed(self._sweep, told, self._seed)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        chance = RandomSampler(seed=self._seed)
        return chance.sample_independent(study, trial, param_name, param_distribution)


def proposed(sweep: "Sweep", told: Told, seed: int) -> dict[str, Any]:
    """Optuna's parameters for the most promising trial that may be run; none where nothing new was found."""
    rng = np.random.default_rng(seed)
    axes = Axes(_distributions(sweep), {key for key, d in sweep.config.space.items() if d.when})
    points = [params for params, _, _ in told.ends]
    values_N, variances_N = np.array([[end, variance] for _, end, variance in told.ends]).T
    model = Surrogate(axes.at(points), values_N, variances_N)
    if told.pending:
        model.suppose(axes.at(told.pending))
    expected_N, _ = model.at(axes.at(points))
    parents = [points[place] for place in np.argsort(-expected_N, kind="stable")[:PARENTS]]
    draws = [_drawn(sweep, axes, rng) for _ in range(ANYWHERE)] + [
        _drawn(sweep, axes, rng, parents[rng.integers(len(parents))], SHARES[rng.integers(len(SHARES))])
        for _ in range(NEAR)
    ]
    taken = {_key(params) for params in [*points, *told.pending]}
    candidates = list({key: draw for draw in draws if (key := _key(draw[0])) not in taken}.values())
    if not candidates:
        return {}
    means_M, deviations_M = model.at(axes.at([params for params, _ in candidates]))
    above_M = (means_M - expected_N.max()) / deviations_M
    improvement_M = deviations_M * (above_M * norm.cdf(above_M) + norm.pdf(above_M))
    for place in np.argsort(-improvement_M, kind="stable")[:TRIES]:
        params, values = candidates[place]
        if sweep.refused(values) is None:
            return params
    return {}


def _key(params: Params) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def _distributions(sweep: "Sweep") -> dict[str, BaseDistribution]:
    """Of all parameters, whether or not a trial has them."""
    asked = _Asked()
    for key, distribution in sweep.config.space.items():
        distribution.suggest(cast("BaseTrial", asked), key)
    return asked.distributions


def _drawn(
    sweep: "Sweep", axes: Axes, rng: np.random.Generator, parent: Params | None = None, share: float = 0.0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and values of a trial that the conditions allow: anywhere, or near those of a parent."""
    draw = _Draw(axes, rng, parent or {}, share)
    values = sweep.suggest(cast("BaseTrial", draw))
    return draw.params, values


class _Suggesting:
    """An Optuna trial as far as a distribution's `suggest` asks of one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        return self._suggest(name, CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, log: bool = False) -> int:
        """A whole number, both ends included."""
        return self._suggest(name, IntDistribution(low, high, log=log))

    def suggest_float(
        self, name: str, low: float, high: float, log: bool = False, step: float | None = None
    ) -> float:
        """A number from `low` to `high`."""
        return self._suggest(name, FloatDistribution(low, high, log=log, step=step))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        raise NotImplementedError


class _Asked(_Suggesting):
    """What is asked of it, answered with any value."""

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        return Axis(distribution).draw(np.random.default_rng(0))


class _Draw(_Suggesting):
    def __init__(self, axes: Axes, rng: np.random.Generator, parent: Params, share: float):
        self._axes, self._rng, self._parent, self._share = axes, rng, parent, share
        self.params: dict[str, Any] = {}

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        axis = self._axes[name]
        if name not in self._parent:
            value = axis.draw(self._rng)
        elif self._rng.random() < KEPT:
            value = self._parent[name]
        else:
            value = axis.near(self._parent[name], self._share, self._rng)
        self.params[name] = value
        return value
