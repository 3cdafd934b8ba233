"""Proposals by Gaussian processes: where the end of a trial is expected to be most above the best so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FixedTrial, FrozenTrial

from orchestrator.search.axes import Axes, Codes

if TYPE_CHECKING:
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

    trials: Sequence[Params]
    """Those that have told something."""
    values_NL: NDArray[np.float64]
    """What each of them told at the epochs at which trials are compared, larger ones better; NaN: nothing."""
    pending: Sequence[Params]
    """Those that have told nothing yet."""
    tried: Sequence[Params]
    """All trials, those that are not looked at among them."""


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
        return {} if len(told.trials) < STARTS else proposed(self._sweep, told, self._seed)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        chance = RandomSampler(seed=self._seed)
        return chance.sample_independent(study, trial, param_name, param_distribution)


def proposed(sweep: "Sweep", told: Told, seed: int) -> dict[str, Any]:
    """Optuna's parameters for the most promising trial that may be run; none where nothing new was found.

    Shape letters: N trials, M candidates, P coordinates.
    """
    from scipy.special import ndtr  # half a second, as the rest of scipy, and a sweep begins without

    from orchestrator.search.surrogate import Surrogate

    rng, axes = np.random.default_rng(seed), Axes(sweep)
    tried, pending = axes.codes(told.trials), axes.codes(told.pending)
    model = Surrogate(axes.points(tried), told.values_NL)
    if told.pending:
        model.suppose(axes.points(pending))
    best = np.argsort(-model.ends_N, kind="stable")[:PARENTS]
    parents, shares = rng.choice(best, size=NEAR), rng.choice(SHARES, size=NEAR)
    near = axes.near({name: codes_N[parents] for name, codes_N in tried.items()}, KEPT, shares, rng)
    candidates = _new(_joined([axes.anywhere(ANYWHERE, rng), near]), _joined([tried, pending]))
    points_MP = axes.points(candidates)
    if not len(points_MP):
        return {}
    means_M, deviations_M = model.at(points_MP)
    above_M = (means_M - model.ends_N.max()) / deviations_M
    density_M = np.exp(-0.5 * above_M**2) / math.sqrt(2 * math.pi)
    improvement_M = deviations_M * (above_M * ndtr(above_M) + density_M)
    for row in np.argsort(-improvement_M, kind="stable")[:TRIES].tolist():
        params = axes.params(candidates, row)
        if params not in told.tried and sweep.refused(sweep.suggest(FixedTrial(params))) is None:
            return params
    return {}


def _joined(parts: Sequence[Codes]) -> Codes:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _new(candidates: Codes, taken: Codes) -> Codes:
    """Those that are different from all that are taken, each once."""
    seen = set(_rows(taken))
    rows = [row for row, codes in enumerate(_rows(candidates)) if not (codes in seen or seen.add(codes))]
    return {name: codes_M[rows] for name, codes_M in candidates.items()}


def _rows(trials: Codes) -> list[tuple[float, ...]]:
    """One trial each, to be compared: NaN is no number, and not equal to itself."""
    return list(map(tuple, np.nan_to_num(np.column_stack(list(trials.values())), nan=-1).round(9).tolist()))
