"""The queue of trials as a Ray Tune searcher."""

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

FINISHED = Searcher.FINISHED


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
