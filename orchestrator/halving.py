"""Successive halving told from reports alone: who may go on, who waits, who is let live to be looked at."""

import heapq
import math
import zlib
from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import Literal

import numpy as np

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
        self._sorted: dict[int, list[float]] = {epoch: [] for epoch in self.rungs}

    def record(self, trial: int, epoch: int, value: float) -> None:
        """Enter a report; epochs that are no rung are passed over."""
        if epoch in self.rungs and trial not in self.rungs[epoch]:
            self.rungs[epoch][trial] = self.sign * value
            insort(self._sorted[epoch], self.sign * value)

    def goes_on(self, trial: int, epoch: int) -> bool:
        """Whether a trial recorded at `epoch` is good enough to go on; a tie goes on."""
        if trial not in self.rungs.get(epoch, {}):
            return True
        return self._better(trial, epoch) < self._places(epoch)

    def rank(self, trial: int, epoch: int) -> str:
        """A trial's place at a rung in words, for the record."""
        return f"place {self._better(trial, epoch) + 1} of {len(self.rungs[epoch])} at epoch {epoch}"

    def _better(self, trial: int, epoch: int) -> int:
        """Trials at a rung that are better than this one."""
        return len(self.rungs[epoch]) - bisect_right(self._sorted[epoch], self.rungs[epoch][trial])

    def _places(self, epoch: int) -> int:
        """How many of those at a rung may go on."""
        return max(1, math.floor(len(self.rungs[epoch]) / self.reduction_factor))


class PromotingAsha(Asha):
    """The promoting kind, as in the paper: who is not among the best waits, and goes on once it is.

    The stopping kind lets whoever comes early through, and loses for good what looked weak beside few
    others. Here the first at a rung wait too.
    """

    def __init__(self, rungs: Iterable[int], reduction_factor: int, mode: Literal["min", "max"]):
        super().__init__(rungs, reduction_factor, mode)
        self.parked: dict[int, int] = {}
        """Rung at which each waiting trial waits."""
        self._waiting: dict[int, list[tuple[float, int]]] = {epoch: [] for epoch in self.rungs}
        """Of each rung a heap, the best first; who no longer waits there is passed over when it comes up."""

    def park(self, trial: int, epoch: int) -> None:
        """Let a trial recorded at `epoch` wait there."""
        self.parked[trial] = epoch
        heapq.heappush(self._waiting[epoch], (-self.rungs[epoch][trial], trial))

    def release(self, trial: int) -> None:
        """A waiting trial goes on, or is over."""
        del self.parked[trial]

    def promotable(self) -> int | None:
        """The waiting trial that is to go on, the highest rung's best first; None: none is good enough."""
        for epoch in reversed(self.rungs):
            trial = self._best_waiting(epoch)
            # If the best that waits is not among the best 1/reduction_factor, none of them is.
            if trial is not None and self.goes_on(trial, epoch):
                return trial
        return None

    def furthest(self) -> int | None:
        """The best of the highest rung at which any trial waits, good enough or not."""
        waiting = (self._best_waiting(epoch) for epoch in reversed(self.rungs))
        return next((trial for trial in waiting if trial is not None), None)

    def _best_waiting(self, epoch: int) -> int | None:
        heap = self._waiting[epoch]
        while heap and self.parked.get(heap[0][1]) != epoch:
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def _places(self, epoch: int) -> int:
        return math.floor(len(self.rungs[epoch]) / self.reduction_factor)
