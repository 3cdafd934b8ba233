"""The sweep's decisions in Ray Tune's place for a scheduler, and what happens to trials told to the sweep."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.engine.trial import Task


class TuneScheduler(FIFOScheduler):
    """Passes what happens to trials on to the sweep, and its decisions back to Tune."""

    def __init__(self, listener: "Listener", places: Callable[[], int]):
        """`places` says how many trials may run at a time."""
        super().__init__()
        self._listener, self._places = listener, places

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its scheduler, and the sweep must not be in there."""
        return {}

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        # As many processes are started at a time as there are places; by one after another, which is what
        # TUNE_MAX_PENDING_TRIALS_PG says, a large cluster would fill slowly. One is asked for ahead.
        ahead = max(1, self._places() - self._listener.running())
        tune_controller._tune_controller.update_max_pending_trials(ahead)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = self._listener.reported(trial.config, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        # Also called after a STOP, with the report that was answered by it; the sweep knows.
        self._listener.reported(trial.config, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Tune's own getters look where it copies this file to, and find none yet.
        file = Path(trial.error_file) if trial.error_file else None
        text = file.read_text(encoding="utf-8") if file is not None and file.is_file() else ""
        self._listener.crashed(trial.config, text)


class TuneEvents(Callback):
    """Tells the sweep when a trial really begins, for Tune asks for one ahead of a free place, and asks
    it at every turn whom to kill."""

    def __init__(
        self,
        listener: "Listener",
        first_turn: Callable[[], None],
        every_turn: Callable[[], None] | None = None,
    ):
        """`first_turn` is called when Tune has set itself up, `every_turn` several times a second."""
        self._listener, self._first_turn, self._every_turn = listener, first_turn, every_turn

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if iteration == 0:
            self._first_turn()
        if self._every_turn is not None:
            self._every_turn()
        for number in self._listener.tick():
            for trial in trials:
                actor = trial.temporary_state.ray_actor
                if trial.status == Trial.RUNNING and Task.of(trial.config).number == number and actor:
                    # SIGTERM, and where that does not help, SIGKILL; Tune hears of it as of a crash.
                    ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._listener.started(trial.config)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as above."""
        return {}


class Listener(Protocol):
    """Who hears of the trials' progress, before anything else depends on it."""

    def tick(self) -> list[int]:
        """Called several times a second; numbers of trials whose processes are to be killed."""
        ...

    def running(self) -> int:
        """Trials that have begun and are not over."""
        ...

    def started(self, config: dict[str, Any]) -> None:
        """A trial has got its processors."""
        ...

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        """A trial's report; whether it shall go on. A report heard twice changes nothing."""
        ...

    def crashed(self, config: dict[str, Any], error: str) -> None:
        """A trial's process ended without a report."""
        ...
