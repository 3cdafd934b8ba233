"""Images decoded when they are drawn, ahead of that by worker processes.

Shape letters: M images of a part of a data set, B a batch, C channels, H x W stored size in pixels.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hjepa.data.decode import Skipped
from hjepa.data.items import Items, Job, Outcome
from hjepa.data.ondemand import OnDemand

_CHUNK_IMAGES = 32
"""Images that a worker decodes at a time: few, so that the first batch comes from all of them."""
_AHEAD = 4
"""Chunks that each worker may be ahead."""


class Streamed(OnDemand):
    """The images of `items`, decoded anew every time.

    `num_workers` processes decode ahead, within `ahead` only: 0 decodes in this process.
    """

    def __init__(self, items: Items, num_workers: int, skipped: Skipped):
        super().__init__(items, num_workers, skipped)
        self._coming: deque[np.ndarray] = deque()
        self._outcomes: Iterator[Outcome] = iter(())

    def read(self, indices_B: np.ndarray, allowed_N: np.ndarray) -> np.ndarray:
        jobs = [self.items.job(chunk) for chunk in _chunks(indices_B)]
        if self._coming and np.array_equal(self._coming[0], indices_B):
            self._coming.popleft()
            outcomes = [next(self._outcomes) for _ in jobs]
        else:
            outcomes = [job.run() for job in jobs]
        for chunk, found in zip(_chunks(indices_B), outcomes, strict=True):
            for position, problem in found.problems.items():
                index = int(chunk[position])
                self.skipped.add(self.items.name(index), problem)
                found.images_BCHW[position] = self._replacement(index, allowed_N)
        return np.concatenate([found.images_BCHW for found in outcomes])

    @contextmanager
    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[None]:
        """As OnDemand; the processes end with it."""
        if self.num_workers == 0:
            yield
            return
        coming = [batch for batch in batches if len(batch)]
        jobs = (self.items.job(chunk) for batch in coming for chunk in _chunks(batch))
        with _outcomes(jobs, self.num_workers) as found:
            self._coming, self._outcomes = deque(coming), found
            try:
                yield
            finally:
                self._coming, self._outcomes = deque(), iter(())

    def _replacement(self, index: int, allowed_N: np.ndarray) -> np.ndarray:
        for other in self.alike(index, allowed_N):
            images_1CHW, problems = self.items.job(np.array([other])).run()
            if not problems:
                return images_1CHW[0]
            self.skipped.add(self.items.name(other), problems[0])
        raise self.none_alike(index)


def _chunks(indices_B: np.ndarray) -> list[np.ndarray]:
    return np.split(indices_B, range(_CHUNK_IMAGES, len(indices_B), _CHUNK_IMAGES))


class _Runner(Dataset[Outcome]):
    """What the workers have: nothing. Each job brings what it needs."""

    def __getitem__(self, index: Any) -> Outcome:
        return index.run()


class _Jobs(Sampler[Job]):
    def __init__(self, jobs: Iterator[Job]):
        self.jobs = jobs

    def __iter__(self) -> Iterator[Job]:
        return self.jobs


def _as_it_is(found: Any) -> Any:
    """Arrays stay arrays and go through a pipe: as tensors they would need /dev/shm, small in containers."""
    return found


def _end_with_parent(worker: int) -> None:
    """torch's own watch is over the fork server, which lives as long as any worker does."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _outcomes(jobs: Iterator[Job], num_workers: int) -> Iterator[Iterator[Outcome]]:
    """The jobs' outcomes in order, by worker processes that end with the context."""
    context = get_context("forkserver")
    # Forking this process, with its threads and CUDA, may hang the child; the server has neither, and has
    # imported what the workers need.
    context.set_forkserver_preload(["__main__", __name__])
    loader = DataLoader(
        _Runner(),
        batch_size=None,
        sampler=_Jobs(jobs),
        num_workers=num_workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_end_with_parent,
        multiprocessing_context=context,
        # Without one of its own it would draw from the generator that crops and masks come from.
        generator=torch.Generator(),
    )
    found: Any = None
    try:
        with _interrupts_held():
            found = iter(loader)
        yield found
    finally:
        # Its destructor does this too, but waits for whatever still refers to it, a traceback for one.
        if found is not None:
            with _interrupts_held():
                found._shutdown_workers()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM come through at the end only: half-started workers could not be ended. They and
    their server inherit the block, so that only this process answers to them."""
    # The first worker would start it, and starting it lifts the block.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
