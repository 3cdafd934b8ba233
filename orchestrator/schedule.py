"""Which trials may go on: ASHA, decided from the reports alone, and its place in Ray Tune."""

import math
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.trial import Task

_AUDIT = zlib.crc32(b"audit")
"""Keeps the draw apart from the sampler's, which also starts from the seed and the number."""


def audited(seed: int, share: float, number: int) -> bool:
    """Whether trial `number` is one of the `share` that run to the end whatever their rank.

    Drawn by seed and number alone, so that no report has a say in it.
    """
    (word,) = np.random.SeedSequence([seed, number, _AUDIT]).generate_state(1)
    return int(word) < share * 2**32


class Asha:
    """Asynchronous successive halving, the stopping kind (Li et al. 2020).

    At each rung, an epoch count, a trial goes on if it is among the best 1/reduction_factor of
    those that have got there so far. Rungs hold nothing but what trials reported, so they can be
    filled again from the record of a sweep and are then as if it had never stopped.
    """

    def __init__(self, rungs: Iterable[int], reduction_factor: int, mode: Literal["min", "max"]):
        self.reduction_factor = reduction_factor
        self.sign = 1 if mode == "max" else -1
        self.rungs: dict[int, dict[int, float]] = {epoch: {} for epoch in sorted(rungs)}

    def record(self, trial: int, epoch: int, value: float) -> None:
        """Enter a report; epochs that are no rung are passed over."""
        if epoch in self.rungs:
            self.rungs[epoch][trial] = self.sign * value

    def goes_on(self, trial: int, epoch: int) -> bool:
        """Whether a trial recorded at `epoch` is good enough to go on; a tie goes on."""
        rung = self.rungs.get(epoch, {})
        if trial not in rung:
            return True
        places = max(1, math.floor(len(rung) / self.reduction_factor))
        better = sum(value > rung[trial] for value in rung.values())
        return better < places

    def rank(self, trial: int, epoch: int) -> str:
        """A trial's place at a rung in words, for the record."""
        rung = self.rungs[epoch]
        better = sum(value > rung[trial] for value in rung.values())
        return f"place {better + 1} of {len(rung)} at epoch {epoch}"


class TuneScheduler(FIFOScheduler):
    """Passes what happens to trials on to the sweep, and its decisions back to Tune."""

    def __init__(self, listener: "Listener"):
        super().__init__()
        self._listener = listener

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its scheduler, and the sweep must not be in there."""
        return {}

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

    def __init__(self, listener: "Listener", first_turn: Callable[[], None]):
        """`first_turn` is called when Tune has set itself up."""
        self._listener, self._first_turn = listener, first_turn

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if iteration == 0:
            self._first_turn()
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

    def started(self, config: dict[str, Any]) -> None:
        """A trial has got its processors."""
        ...

    def reported(self, config: dict[str, Any], result: dict[str, Any]) -> bool:
        """A trial's report; whether it shall go on. A report heard twice changes nothing."""
        ...

    def crashed(self, config: dict[str, Any], error: str) -> None:
        """A trial's process ended without a report."""
        ...
