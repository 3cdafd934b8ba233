"""Optuna's samplers, and the queue of trials as a Ray Tune searcher."""

import warnings
from collections.abc import Callable
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.search import Searcher

from orchestrator.space import Sweep

FINISHED = Searcher.FINISHED


def build_sampler(sweep: Sweep, asked: int) -> BaseSampler:
    """The sampler of a sweep in which `asked` trials have been asked for already.

    Its seed moves on with them: a resumed sweep would else propose the same values again.
    """
    seed = (sweep.config.search.seed + asked) % 2**32
    if sweep.config.search.algorithm != "tpe":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Grouped, since keys under a `when:` are not in every trial; a multivariate sampler
        # without groups draws those independently of the rest.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


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
