"""Optuna's samplers as a sweep uses them: the same draws whether or not it was interrupted."""

import copy
import heapq
import math
import warnings
import zlib
from collections.abc import Callable, Container, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study as OptunaStudy
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.foresight import at_looks, foreseen_ends
from orchestrator.search.gaussian import GaussianProcessSampler, Told
from orchestrator.search.halving import draw
from orchestrator.search.proposal import ATTEMPT

if TYPE_CHECKING:
    from orchestrator.space import Sweep

POPULATION = 16
"""Completed trials of a generation of NSGA-II; with its usual 50 most sweeps would end in the first."""
LOOKED_AT = {"tpe": 2000, "gp": 200}
"""Trials that a learned sampler looks at, at most."""
BEST = {"tpe": 25, "gp": 100}
"""Those of them that are the best. TPE takes so many for good ones, Optuna's default."""
LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that tell TPE which keys go together."""
LEARNED_ATTEMPTS = 10
"""Proposals for a trial that TPE or the Gaussian process make before it is left to chance to find one that
may be run: where they repeat themselves they have little left to say, and each takes milliseconds."""
BY_CHANCE = 1 / 3
"""Share of such a search's trials that are drawn at random, as in BOHB (Falkner et al. 2018): who only looks
where it was good finds nothing better elsewhere."""
_CHANCE = zlib.crc32(b"chance")
"""Keeps this draw apart from the samplers'."""


def is_by_chance(seed: int, number: int) -> bool:
    """Whether a trial of a search that learns is one of those that are drawn at random."""
    return draw(seed, number, _CHANCE) < BY_CHANCE


def build_sampler(sweep: "Sweep") -> "NumberedSampler":
    """The sampler of a sweep."""
    return NumberedSampler(sweep)


Elsewhere = Callable[[Sequence[FrozenTrial]], list[FrozenTrial]]
"""Trials of other studies, as they look beside this one's own."""


class Known:
    """What trials have told at the epochs at which they are compared, kept from proposal to proposal."""

    def __init__(self, looks: Sequence[int]):
        self._looks = looks
        self._trials: list[FrozenTrial] = []
        self._values_NL = np.empty((0, len(looks)))

    def values(self, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
        """A row for each trial; NaN where it has told nothing, or does not tell its end."""
        before = self._trials
        more = np.full((max(0, len(trials) - len(before)), len(self._looks)), np.nan)
        self._trials, self._values_NL = list(trials), np.vstack([self._values_NL, more])[: len(trials)]
        for place, trial in enumerate(trials):
            # Optuna never changes a trial: it puts another one in its place.
            if place >= len(before) or before[place] is not trial:
                curve = trial.intermediate_values if _tells_its_end(trial) else {}
                self._values_NL[place] = at_looks(curve, self._looks)
        return self._values_NL


class TrialsView:
    """An Optuna study as its sampler is to see it, for one proposal: what an open trial has reported counts.

    An open trial would else be taken for a bad one (`constant_liar`), and of promoting ASHA's trials most
    are open, waiting at a rung. Optuna also takes whoever came further for better, and some come far whatever
    they are worth: those that are audited, and those that first rungs do not judge. So each trial that has
    been at a rung is shown as if completed with what it would likely have come to (`foreseen_ends`). One that
    has been at none is shown as pruned where it stands; so are all where there are no rungs.

    Trials without values of the space, with fresh seeds or of a base outside it, are left out: each would
    count as a good one or a bad one, and says of no value that it is.

    Of more than LOOKED_AT trials a learned sampler sees the BEST, and of the others every so many: TPE tells
    the density of the good ones from that of the rest, which so many show as well as all.
    """

    def __init__(
        self,
        study: OptunaStudy,
        learned: str | None = None,
        elsewhere: Elsewhere | None = None,
        looks: Sequence[int] = (),
        known: Known | None = None,
    ):
        """`learned` is the algorithm that learns from them; None: all are shown. `looks` are the epochs at
        which trials are compared, the last one included; `known` is what was known there before."""
        self._study, self._learned, self._elsewhere, self._looks = study, learned, elsewhere, looks
        self._known = known or Known(looks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @cached_property
    def _all(self) -> list[FrozenTrial]:
        own = [trial for trial in self._study._get_trials(deepcopy=False) if trial.distributions]
        return own if self._elsewhere is None else self._elsewhere(own) + own

    @cached_property
    def _ends(self) -> list[float | None]:
        """What each trial would likely come to; None: it is to be seen as it stands."""
        if len(self._looks) < 2 or len(self._study.directions) > 1:
            return [None] * len(self._all)
        ends = foreseen_ends(self._known.values(self._all)).tolist()
        return [None if math.isnan(end) else end for end in ends]

    def told(self) -> Told:
        """The same for a model: what each trial told at each look, and those that have told nothing yet."""
        sign = 1 if self._study.direction == StudyDirection.MAXIMIZE else -1
        values_NL = sign * self._known.values(self._all)
        trials, rows, pending, collapsed = [], [], [], []
        for place in self._places():
            trial, row_L = self._all[place], values_NL[place].copy()
            if np.isnan(row_L).all() and trial.state == TrialState.COMPLETE and trial.value is not None:
                row_L[-1] = sign * trial.value  # of a sweep that compares at other epochs
            if np.isfinite(row_L).any():
                trials.append(trial.params)
                rows.append(row_L)
            elif trial.state == TrialState.RUNNING:
                pending.append(trial.params)
            elif trial.state == TrialState.PRUNED and not _tells_its_end(trial):
                collapsed.append(trial.params)
        if trials:
            worst_L = np.nanmin(np.array(rows), axis=0, initial=np.inf)
            trials += collapsed
            rows += [np.where(np.isfinite(worst_L), worst_L, np.nan)] * len(collapsed)
        return Told(trials, np.array(rows), pending, [trial.params for trial in self._all])

    @cached_property
    def _trials(self) -> list[FrozenTrial]:
        return [_as_it_is_seen(self._all[place], self._ends[place]) for place in self._places()]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def of_each_kind(self) -> "TrialsView":
        """The same with the first trial for each set of keys, which is all that tells which go together."""
        found: dict[tuple[str, ...], FrozenTrial] = {}
        for trial in self._all:
            kind = tuple(trial.distributions)
            if kind not in found and (seen := _as_it_is_seen(trial, None)).state in LEARNT_FROM:
                found[kind] = seen
        kinds = TrialsView(self._study)
        kinds._trials = list(found.values())
        return kinds

    def _places(self) -> Sequence[int]:
        """Of those that are looked at."""
        trials = self._all
        if self._learned is None or len(self._study.directions) > 1:
            return range(len(trials))
        limit, leading = LOOKED_AT[self._learned], BEST[self._learned]
        if len(trials) <= limit:
            return range(len(trials))
        sign = -1 if self._study.direction == StudyDirection.MAXIMIZE else 1
        ranks = [_rank(trial, end, sign) for trial, end in zip(trials, self._ends, strict=True)]
        best = set(heapq.nsmallest(leading, range(len(trials)), key=ranks.__getitem__))
        others = [place for place in range(len(trials)) if place not in best]
        step = len(others) / (limit - leading)
        return sorted(best.union(others[int(i * step)] for i in range(limit - leading)))


def _tells_its_end(trial: FrozenTrial) -> bool:
    """One that collapsed does not: had it gone on, it would have come to nothing."""
    if trial.state == TrialState.FAIL:
        return False
    ended = trial.user_attrs.get("end")
    return ended is None or ended.get("outcome") != "collapsed"


def _rank(trial: FrozenTrial, end: float | None, sign: int) -> tuple[float, float]:
    """TPE's order: complete trials by value, then the others by how far they came, and by value there."""
    if end is not None:
        return -math.inf, sign * end
    state, reports = trial.state, trial.intermediate_values
    if state == TrialState.COMPLETE and trial.value is not None:
        return -math.inf, sign * trial.value
    if state == TrialState.FAIL or not reports:
        return math.inf, 0.0
    last = max(reports)
    return -last, sign * reports[last]


def _as_it_is_seen(trial: FrozenTrial, end: float | None) -> FrozenTrial:
    is_open = trial.state == TrialState.RUNNING
    if end is None and not (is_open and trial.intermediate_values):
        return trial
    seen = copy.copy(trial)
    if end is not None:
        seen.state, seen.value = TrialState.COMPLETE, end
    else:
        seen.state = TrialState.PRUNED
        seen.value = trial.intermediate_values[max(trial.intermediate_values)]
    return seen


class NumberedSampler(BaseSampler):
    """A sampler whose draws for a trial depend on the seed, the trial's number and the study, on no more.

    Asked for a trial again, since what it proposed is not to be run, it draws afresh. So a sweep that is
    gone on with proposes what it would have proposed without the interruption.
    """

    def __init__(self, sweep: "Sweep"):
        self._sweep, self._looks, self._known = sweep, sweep.looks, Known(sweep.looks)
        self._algorithm, self._seed = sweep.config.search.algorithm, sweep.config.search.seed
        self.elsewhere: Elsewhere | None = None
        """What else the sampler learns from."""
        self._jointly: BaseSampler = RandomSampler()

    def _build(self, trial: FrozenTrial, *place: int) -> BaseSampler:
        attempt = trial.system_attrs.get(ATTEMPT, 0)
        place = (self._seed, trial.number, *place, *([attempt] if attempt else []))
        (seed,) = np.random.SeedSequence(place).generate_state(1)
        if self._algorithm == "nsga2" and attempt < LEARNED_ATTEMPTS:
            return NSGAIISampler(seed=int(seed), population_size=POPULATION)
        chance = attempt >= LEARNED_ATTEMPTS or is_by_chance(self._seed, trial.number)
        if self._algorithm not in LOOKED_AT or chance:
            return RandomSampler(seed=int(seed))
        if self._algorithm == "gp":
            return GaussianProcessSampler(self._sweep, int(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # Grouped, since keys under a `when:` are not in every trial; a multivariate sampler
            # without groups draws those independently of the rest.
            return TPESampler(seed=int(seed), multivariate=True, group=True, constant_liar=True)

    def infer_relative_search_space(
        self, study: OptunaStudy, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        self._jointly = self._build(trial)
        learned = self._algorithm if isinstance(self._jointly, TPESampler | GaussianProcessSampler) else None
        self._view = TrialsView(study, learned, self.elsewhere if learned else None, self._looks, self._known)
        seen = self._view.of_each_kind() if isinstance(self._jointly, TPESampler) else self._view
        return self._jointly.infer_relative_search_space(cast(OptunaStudy, seen), trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._jointly.sample_relative(cast(OptunaStudy, self._view), trial, search_space)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        own = self._build(trial, zlib.crc32(param_name.encode()))
        seen = cast(OptunaStudy, self._view)
        return own.sample_independent(seen, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: OptunaStudy,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._jointly.after_trial(study, trial, state, values)
