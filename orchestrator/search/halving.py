"""Successive halving told from reports alone: who may go on, who waits, who is let live to be looked at."""

import heapq
import itertools
import math
import zlib
from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import Literal

import numpy as np

Mode = Literal["min", "max"]

_AUDIT, _BRACKET = zlib.crc32(b"audit"), zlib.crc32(b"bracket")
"""Keep these draws apart from the sampler's, which also start from the seed and the number."""


def audited(seed: int, share: float, number: int) -> bool:
    """Whether trial `number` is one of the `share` that run to the end whatever their rank.

    Drawn by seed and number alone, so that no report has a say in it.
    """
    return draw(seed, number, _AUDIT) < share


def first_rung(seed: int, number: int, rungs: int, brackets: int, reduction_factor: int) -> int:
    """Which of `rungs` is the first at which trial `number` may be made to wait: its bracket, from 0.

    Of `brackets` of them the first has the most trials, each further one fewer, as Hyperband (Li et al. 2018)
    has them, which gives each as many epochs: eta^s / (s + 1) with s rungs to come. Drawn by seed and number
    alone.
    """
    shares = [reduction_factor**left / (left + 1) for left in range(rungs, rungs - brackets, -1)]
    drawn = draw(seed, number, _BRACKET) * sum(shares)
    ends = itertools.accumulate(shares[:-1])
    return sum(drawn >= end for end in ends)


def draw(seed: int, number: int, purpose: int) -> float:
    """A number in [0, 1) that trial `number` has for one purpose, whatever is reported."""
    (word,) = np.random.SeedSequence([seed, number, purpose]).generate_state(1)
    return int(word) / 2**32


class Asha:
    """Asynchronous successive halving, the stopping kind (Li et al. 2020).

    At each rung, an epoch count, a trial goes on if it is among the best 1/reduction_factor of
    those that have got there so far. Rungs hold nothing but what trials reported, so they can be
    filled again from the record of a sweep and are then as if it had never stopped.
    """

    def __init__(self, rungs: Iterable[int], reduction_factor: int, mode: Mode):
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

    def __init__(self, rungs: Iterable[int], reduction_factor: int, mode: Mode):
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
        for epoch in reversed(self.open_rungs()):
            trial = self._best_waiting(epoch)
            # If the best that waits is not among the best 1/reduction_factor, none of them is.
            if trial is not None and self.goes_on(trial, epoch):
                return trial
        return None

    def open_rungs(self) -> list[int]:
        """Those from which trials go on, in ascending order."""
        return list(self.rungs)

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


class Pasha(PromotingAsha):
    """The promoting kind whose budget grows only while rankings still change (PASHA, Bohdal et al. 2023).

    Trials go on from the first rung at first. Once those at the highest rung that they get to stand there in
    another order than at the rung before, they go on from it too. Two values change places without notice
    where they differ by no more than chance would make them: by the 90th percentile of the distances there of
    such pairs of trials as have overtaken one another to and fro on their way.
    """

    PERCENTILE = 0.9

    def __init__(self, rungs: Iterable[int], reduction_factor: int, mode: Mode):
        super().__init__(rungs, reduction_factor, mode)
        self._epochs = list(self.rungs)
        self._open = 1
        """Rungs from which trials go on; from all but the first of them the order has changed since."""
        self._curves: dict[int, list[float]] = {}
        """Of trials that are not past the highest rung that they get to, as they came."""
        self._arrived: list[list[float]] = []
        """Of those that are at that rung, up to there."""
        self._distances: list[float] = []
        """Of those that overtake to and fro, ascending."""

    def record(self, trial: int, epoch: int, value: float) -> None:
        """Enter a report; the budget may grow by it."""
        is_new = epoch in self.rungs and trial not in self.rungs[epoch]
        super().record(trial, epoch, value)
        if self._open >= len(self._epochs):
            return  # which has grown to all there is
        highest = self._epochs[self._open]
        if epoch <= highest:
            self._curves.setdefault(trial, []).append(self.sign * value)
        if epoch == highest and is_new:
            self._arrive(self._curves[trial])
            if not self._is_settled():
                self._grow()

    def goes_on(self, trial: int, epoch: int) -> bool:
        """Whether a trial recorded at `epoch` is good enough to go on, and any does from there."""
        waits = epoch in self.rungs and epoch not in self.open_rungs() and trial in self.rungs[epoch]
        return not waits and super().goes_on(trial, epoch)

    def open_rungs(self) -> list[int]:
        """Those from which trials go on, in ascending order."""
        return self._epochs[: self._open]

    def _arrive(self, curve: list[float]) -> None:
        """Note how far one that has arrived is from each with which it changed places to and fro."""
        alike = [other for other in self._arrived if len(other) == len(curve)]
        self._arrived.append(curve)
        if alike:
            ahead = np.sign(np.subtract(alike, curve))
            changes = np.count_nonzero(ahead[:, 1:] * ahead[:, :-1] < 0, axis=1)
            ends = np.array(alike)[changes > 1, -1]
            self._distances = sorted([*self._distances, *np.abs(ends - curve[-1]).tolist()])

    def _is_settled(self) -> bool:
        """Whether the two highest rungs order those at the higher one alike, as far as can be told."""
        before, highest = (self.rungs[epoch] for epoch in self._epochs[self._open - 1 : self._open + 1])
        trials = [trial for trial in highest if trial in before]
        there, values = (np.array([rung[trial] for trial in trials]) for rung in (before, highest))
        by_then, by_now = (values[np.argsort(-key, kind="stable")] for key in (there, values))
        return bool(np.all(np.abs(by_then - by_now) <= self._noise()))

    def _noise(self) -> float:
        """Distance within which two values are not told apart."""
        last = len(self._distances) - 1
        return self._distances[math.floor(self.PERCENTILE * last)] if self._distances else 0.0

    def _grow(self) -> None:
        """Let them go on from the next rung too."""
        self._open += 1
        self._arrived, self._distances = [], []
        if self._open >= len(self._epochs):
            self._curves = {}


KINDS: dict[str, type[Asha]] = {
    "asha": PromotingAsha,
    "asha_stopping": Asha,
    "pasha": Pasha,
    "fifo": Asha,  # for which there are no rungs
}
"""By `scheduler.type`."""
