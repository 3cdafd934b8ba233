"""Images decoded when they are first drawn, by threads ahead of that, into a file mapped from then on.

The first epoch begins before everything is decoded. What it draws, and in which order, does not depend on
how far the decoding is.

Shape letters: M images of a part of a data set, N images of a split, B a batch, C channels, H x W
stored size in pixels.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hjepa.data.decode import PROGRESS_S, Skipped, decoding_threads
from hjepa.data.items import Items
from hjepa.data.ondemand import OnDemand
from hjepa.data.partial import BAD, GOOD, MISSING, Partial
from hjepa.schema import ConfigError

_LOOK_S = 0.002
"""Seconds between two looks at what others decode."""
_PATIENCE_S = 1.0
"""Seconds after which an image that another process has claimed is decoded here too: it may be stopped."""

log = logging.getLogger(__name__)


class Filling(OnDemand):
    """The images of `items`, one by one into `path`, together with the other processes of the node."""

    def __init__(self, items: Items, path: Path, num_workers: int, skipped: Skipped):
        super().__init__(items, num_workers, skipped)
        self._told = path.with_suffix(".bad.txt")
        self._file = Partial(path, items.labels_M, items.side)
        self._images_MCHW: np.ndarray = self._file.records_M["image"]
        self._marks_M = self._file.marks_M
        self._coming_M = np.zeros(len(items), bool)
        """Images that a thread of this process will decode."""
        self._at_work: list[Future[None]] = []
        self._problems: dict[int, str] = {}
        self._told_s = 0.0
        self._finishing: threading.Thread | None = None
        if self._file.done:
            skipped.load(self._told)
            self._marks_M[[items.name(i) in skipped.problems for i in range(len(items))]] = BAD
        self._finish_if_whole()

    def read(self, indices_B: np.ndarray, allowed_N: np.ndarray) -> np.ndarray:
        self._wait_for(indices_B)
        if (self._marks_M[indices_B] == BAD).any():
            indices_B = np.array([self._good(int(index), allowed_N) for index in indices_B])
        return self._images_MCHW[indices_B]

    @contextmanager
    def ahead(self, batches: Iterable[np.ndarray]) -> Iterator[None]:
        drawn_K = np.concatenate([np.empty(0, np.int64), *batches])
        coming = deque(dict.fromkeys(drawn_K[self._marks_M[drawn_K] == MISSING].tolist()))
        if not coming:
            yield
            return
        self._coming_M[list(coming)] = True
        with decoding_threads(self.num_workers) as pool:
            self._told_s = time.monotonic()
            self._at_work = [pool.submit(self._decode_all, coming) for _ in range(self.num_workers)]
            try:
                yield
            finally:
                coming.clear()
                self._coming_M[:] = False
        self._finish_if_whole()

    @property
    def decoded(self) -> int:
        """How many images have been, bad ones included."""
        return int(np.count_nonzero(self._marks_M))

    def fill(self) -> None:
        """Decode all that has not been decoded yet, and wait for the file to be whole."""
        every_M = np.arange(len(self.items))
        with self.ahead([every_M]):
            self._wait_for(every_M)
        if self._finishing is not None:
            self._finishing.join()

    def _decode_all(self, coming: deque[int]) -> None:
        """What a thread does: until there are no more, or what is left is taken away."""
        while True:
            try:
                index = coming.popleft()
            except IndexError:
                return
            if self._file.claim(index):
                self._decode(index)
            self._coming_M[index] = False
            self._tell()

    def _decode(self, index: int) -> None:
        try:
            images_1CHW, problems = self.items.job(np.array([index])).run()
            if problems:
                self._problems[index] = problems[0]
            self._file.write(index, None if problems else images_1CHW[0])
        finally:
            self._file.leave(index)

    def _wait_for(self, indices_B: np.ndarray) -> None:
        """Until all are decoded; by this thread where neither another one nor another process is at it."""
        for index in indices_B[self._marks_M[indices_B] == MISSING].tolist():
            until_s = time.monotonic() + _PATIENCE_S
            while self._marks_M[index] == MISSING:
                if self._coming_M[index]:
                    self._raise_failure()
                elif self._file.claim(index) or time.monotonic() > until_s:
                    self._decode(index)
                    continue
                time.sleep(_LOOK_S)

    def _raise_failure(self) -> None:
        for thread in self._at_work:
            if thread.done():
                thread.result()

    def _good(self, index: int, allowed_N: np.ndarray) -> int:
        """The image, or what stands in for a bad one."""
        for other in [index, *self.alike(index, allowed_N)] if self._marks_M[index] == BAD else [index]:
            self._wait_for(np.array([other]))
            if self._marks_M[other] != BAD or self._repaired(other):
                return other
            self.skipped.add(self.items.name(other), self._problem(other))
        raise self.none_alike(index)

    def _repaired(self, index: int) -> bool:
        """Whether an image that another process found bad can be decoded now; if so it is."""
        if self._file.done or index in self._problems:
            return False
        self._decode(index)
        return self._marks_M[index] == GOOD

    def _problem(self, index: int) -> str:
        """Why an image is bad; where another process found that, by decoding it again."""
        if index not in self._problems:
            found = self.items.job(np.array([index])).run().problems
            self._problems[index] = found.get(0, "was damaged when it was decoded")
        return self._problems[index]

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            log.warning("decoded %d of %d %s images", self.decoded, len(self.items), self.skipped.what)

    def _finish_if_whole(self) -> None:
        """In a thread, since the disk may take long: name the file that now has all."""
        if self._file.done or self._finishing is not None or (self._marks_M == MISSING).any():
            return
        self._finishing = threading.Thread(target=self._finish, name="decoded")
        self._finishing.start()

    def _finish(self) -> None:
        try:
            self._file.finish(self._save_bad)
        except ConfigError as error:
            log.warning("%s", error)  # this process has its images all the same

    def _save_bad(self) -> None:
        bad = Skipped(self.skipped.max_bad, self.skipped.what)
        for index in np.flatnonzero(self._marks_M == BAD).tolist():
            if self._repaired(index):
                continue
            bad.problems[self.items.name(index)] = self._problem(index)
        bad.save(self._told)
